// A host in C++: namespaces, classes with bases and static members, references, overloads.
#include <bpftime/eim.h>

namespace shop {
struct Base {
  int id;
};
class Order : public Base {
 public:
  static int count;
  int total() const { return total_; }
  Order(int id, int total) : Base{id}, total_(total) {}

 private:
  int total_;
};
int Order::count = 0;
enum class Kind : unsigned char { kBook = 1, kTea = 2 };
__attribute__((noinline)) int price(const Order& order, Kind kind) {
  return order.total() + static_cast<int>(kind);
}
__attribute__((noinline)) int price(int number) { return number; }
EIM_EXTENSION_ENTRY_DEFINE(priceOrder, price, int, const Order&, Kind);
int tax(int amount) { return amount / 5; }
}  // namespace shop
EIM_HFUNC_DEFINE(shop::tax);
EIM_STATE_DEFINE(orders, read, shop::Order::count);

int main(int argc, char**) { return shop::price(shop::Order(1, argc), shop::Kind::kTea) + shop::price(argc); }
