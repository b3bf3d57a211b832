// Every kind of BTF record a compiler emits, for the BTF validator's tests.
#define tag_decl(x) __attribute__((btf_decl_tag(x)))
#define tag_type(x) __attribute__((btf_type_tag(x)))

struct opaque;
enum small { kOne = 1, kMinus = -1 };
enum large { kHuge = 0x1122334455667788LL };
union either {
  int number;
  char bytes[12];
};
struct node {
  struct node* next;
  struct opaque* unknown;
  union either either;
  const volatile enum small kind;
  enum large big;
  unsigned int bits : 3, more_bits : 7;
  int (*callback)(struct node*, const char*, ...);
  int tag_type("user") * user_pointer;
} tag_decl("listed");

typedef struct node node_t;
typedef int matrix_t[3][4];

int counter tag_decl("counted") = 5;
static volatile unsigned long long hidden;
const matrix_t table = {{1}};
node_t head;
double ratio;
_Bool flag;

__attribute__((noinline)) static int helper(node_t* restrict at, int step tag_decl("step")) {
  return at->either.number + step + (int)hidden;
}

__attribute__((section("uprobe/x"), noinline)) int entry(node_t* context) {
  counter += helper(context, table[1][2]);
  hidden++;
  flag = *(long*)&ratio != 0;
  return head.kind + (int)head.big + counter;
}

char licence[] __attribute__((section("license"))) = "Dual MIT/GPL";
