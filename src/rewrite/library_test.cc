// Moved code of real libraries does what it did: every function a library exports is patched as a target's would be, its
// functions are called with known arguments, and every bit of what they say is compared with what they said before.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <string>

#include "rewrite/rewrite.h"
#include "rewrite/test_patch.h"

namespace bpftime::rewrite {
namespace {

constexpr size_t kFunctionsMax = 1u << 16;
volatile uint8_t executed[kFunctionsMax];  // by cookie

// What every probe runs: says that it was there, and destroys all that a program may.
extern "C" __attribute__((target("general-regs-only"), noinline, used)) uint64_t library_program(
    void*, const wire::Invocation* invocation) {
  executed[invocation->cookie % kFunctionsMax] = 1;
  asm volatile(
      "mov $-1, %%rax; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi; mov %%rax, %%rdi;"
      "mov %%rax, %%r8; mov %%rax, %%r9; mov %%rax, %%r10; mov %%rax, %%r11; add %%rax, %%rax" ::
          : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
  return 0;
}

std::map<uint64_t, uint64_t>* led_on;  // from an instruction boundary to its copy

void lead_on(int signal, siginfo_t*, void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  const auto at = led_on->find(static_cast<uint64_t>(rip) - (signal == SIGTRAP ? 1 : 0));
  if (at == led_on->end()) {
    ::signal(signal, SIG_DFL);
    return;
  }
  rip = static_cast<greg_t>(at->second);
}

// Without libc: memcpy and mprotect may be what is being patched.
void write_code(uint64_t address, const std::vector<uint8_t>& bytes) {
  const auto protect = [&](long protection) {
    const uint64_t page = address & ~uint64_t{4095};
    long result = SYS_mprotect;
    register long third asm("rdx") = protection;
    asm volatile("syscall"
                 : "+a"(result), "+r"(third)
                 : "D"(page), "S"(address + bytes.size() - page)
                 : "rcx", "r11", "memory");
    if (result != 0) __builtin_trap();
  };
  protect(PROT_READ | PROT_WRITE | PROT_EXEC);
  auto* to = reinterpret_cast<volatile uint8_t*>(address);
  for (size_t i = 0; i < bytes.size(); ++i) to[i] = bytes[i];
  protect(PROT_READ | PROT_EXEC);
}

// A library of this process, patched from patch() on while it lives.
class PatchedLibrary {
 public:
  explicit PatchedLibrary(const char* name) : handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
    link_map* map = nullptr;
    if (handle_ == nullptr || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0) return;
    base_ = map->l_addr;
    path_ = map->l_name;
  }
  ~PatchedLibrary() {
    restore();
    if (arena_ != nullptr) munmap(arena_, kArena);
  }
  bool loaded() const { return handle_ != nullptr; }

  template <typename Signature>
  Signature* pointer(const char* name) const {
    return reinterpret_cast<Signature*>(dlsym(handle_, name));
  }

  // Functions as plain addresses with their sizes (0: not known).
  std::map<uint64_t, uint64_t> exported() const {
    std::map<uint64_t, uint64_t> out;
    for (const auto& [address, size] : dynamic_functions()) out[base_ + address] = size;
    return out;
  }

  void patch(const std::map<uint64_t, uint64_t>& functions) {
    map_arena(functions.begin()->first);
    for (const auto& [address, size] : functions) {
      const auto next = functions.upper_bound(address);
      plan(address, size, next == functions.end() ? 0 : next->first - address);
    }
    led_on = &led_on_;
    struct sigaction action {};
    action.sa_sigaction = lead_on;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGTRAP, &action, &before_[0]);
    sigaction(SIGILL, &action, &before_[1]);
    for (const auto& [address, plan] : plans_) write_code(address, plan.patched);
    patched_ = true;
  }
  void restore() {
    if (!patched_) return;
    for (const auto& [address, plan] : plans_) write_code(address, plan.original);
    patched_ = false;
    sigaction(SIGTRAP, &before_[0], nullptr);
    sigaction(SIGILL, &before_[1], nullptr);
  }
  size_t planned() const { return plans_.size(); }
  size_t ran() const {
    size_t count = 0;
    for (size_t i = 0; i < plans_.size(); ++i) count += executed[i];
    return count;
  }

 private:
  static constexpr uint64_t kArena = uint64_t{12} << 20;

  std::vector<std::pair<uint64_t, uint64_t>> dynamic_functions() const {
    std::vector<std::pair<uint64_t, uint64_t>> out;
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    std::vector<uint8_t> file(static_cast<size_t>(lseek(fd, 0, SEEK_END)));
    if (::pread(fd, file.data(), file.size(), 0) != std::ssize(file)) file.clear();
    ::close(fd);
    const auto header = read_at<Elf64_Ehdr>(file, 0).value_or(Elf64_Ehdr{});
    for (int i = 0; i < header.e_shnum; ++i) {
      const auto section =
          read_at<Elf64_Shdr>(file, header.e_shoff + i * sizeof(Elf64_Shdr)).value_or(Elf64_Shdr{});
      if (section.sh_type != SHT_DYNSYM) continue;
      for (uint64_t at = 0; at < section.sh_size; at += sizeof(Elf64_Sym)) {
        const auto symbol = read_at<Elf64_Sym>(file, section.sh_offset + at).value_or(Elf64_Sym{});
        if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_shndx != SHN_UNDEF)
          out.emplace_back(symbol.st_value, symbol.st_size);
      }
    }
    return out;
  }

  // Where the daemon would map it, with the program's code at its end.
  void map_arena(uint64_t near) {
    for (const uint64_t step : {0x16, 0x2a, 0x2c, 0x34}) {
      const uint64_t start = (near & ~uint64_t{4095}) - (step << 24) + (uint64_t{2} << 20);
      void* at = mmap(reinterpret_cast<void*>(start), kArena, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
      if (at == MAP_FAILED) continue;
      arena_ = at;
      const uint64_t stub = start + kArena - 64;
      const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};  // jmp *0(%rip)
      const auto program = reinterpret_cast<uint64_t>(library_program);
      std::memcpy(reinterpret_cast<void*>(stub), jump, sizeof jump);
      std::memcpy(reinterpret_cast<void*>(stub + sizeof jump), &program, sizeof program);
      stub_ = stub;
      free_[start] = stub;
      return;
    }
    throw std::runtime_error("no free address space near the library");
  }

  void plan(uint64_t address, uint64_t size, uint64_t to_next) {
    constexpr uint64_t kUnknown = 64;
    SiteRequest request;
    request.address = address;
    request.function_size = size;
    request.code = Bytes(reinterpret_cast<const uint8_t*>(address), size == 0 ? kUnknown : size + 16);
    request.room = to_next < 24 ? static_cast<uint32_t>(to_next) : 0;
    auto shape = inspect_site(request);
    if (!shape || !shape->punned_jump) return;
    constexpr uint64_t kTrampolineMax = 512;
    for (const auto& [start, end] : free_) {
      if (end - start < kTrampolineMax) continue;
      const auto at = shape->rule.next(start, end - kTrampolineMax);
      if (!at) continue;
      request.method = PatchMethod::kPunnedJump;
      request.trampoline_address = *at;
      ProgramCall call{stub_, {}, 0};
      call.invocation.cookie = plans_.size();
      request.on_entry = {call};
      auto plan = plan_probe(request);
      if (!plan) return;
      const uint64_t hole = start, hole_end = end;
      std::memcpy(reinterpret_cast<void*>(*at), plan->trampoline.data(), plan->trampoline.size());
      for (const PcFixup& fixup : plan->fixups)
        led_on_[address + fixup.site_offset] = *at + fixup.trampoline_offset;
      free_.erase(hole);
      if (*at > hole) free_[hole] = *at;
      free_[*at + plan->trampoline.size()] = hole_end;
      executed[plans_.size()] = 0;
      plans_.emplace_back(address, std::move(*plan));
      return;
    }
  }

  void* handle_;
  uint64_t base_ = 0, stub_ = 0;
  std::string path_;
  void* arena_ = nullptr;
  std::map<uint64_t, uint64_t> free_, led_on_;
  std::vector<std::pair<uint64_t, SitePlan>> plans_;
  bool patched_ = false;
  struct sigaction before_[2]{};
};

class Answers {
 public:
  template <typename T>
  void add(const T& value) {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    all_.append(bytes, bytes + sizeof value);
  }
  void add(long double value) {
    all_.append(reinterpret_cast<const char*>(&value), 10);
  }  // the rest is padding
  void add(const std::string& value) { all_ += value; }
  const std::string& all() const { return all_; }

 private:
  std::string all_;
};

// `work` gives the same answers with its library patched as before, and after it.
void compare(PatchedLibrary& library, const std::map<uint64_t, uint64_t>& functions, size_t ran_at_least,
             const std::function<void(Answers&)>& work) {
  Answers before, during, after, again;
  work(before);
  work(again);
  ASSERT_EQ(before.all(), again.all()) << "the work itself is not the same twice";
  library.patch(functions);
  work(during);
  const size_t ran = library.ran();
  library.restore();
  work(after);
  EXPECT_TRUE(before.all() == during.all()) << "patched, the library answers otherwise";
  EXPECT_TRUE(before.all() == after.all());
  std::printf("%zu functions, %zu patched with a jump, %zu of them executed; %zu bytes of answers compared\n",
              functions.size(), library.planned(), ran, before.all().size());
  EXPECT_GE(library.planned() * 100, functions.size() * 80);
  EXPECT_GE(ran, ran_at_least);
}

std::vector<double> numbers() {
  std::vector<double> out = {0.0,   -0.0,   0.5,   1.0,    -1.0,     1.5,       2.0, 3.75,
                             -7.25, 1e-310, 1e300, -1e300, INFINITY, -INFINITY, NAN};
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> some(-30, 30);
  for (int i = 0; i < 100; ++i) out.push_back(some(random));
  return out;
}

TEST(Library, Mathematics) {
  PatchedLibrary library("libm.so.6");
  if (!library.loaded()) GTEST_SKIP() << "no libm.so.6";
  const std::string unary[] = {"acos",  "acosh",     "asin",        "asinh", "atan", "atanh",     "cbrt",
                               "ceil",  "cos",       "cosh",        "erf",   "erfc", "exp",       "exp10",
                               "exp2",  "expm1",     "fabs",        "floor", "j0",   "j1",        "lgamma",
                               "log",   "log10",     "log1p",       "log2",  "logb", "nearbyint", "rint",
                               "round", "roundeven", "significand", "sin",   "sinh", "sqrt",      "tan",
                               "tanh",  "tgamma",    "trunc",       "y0",    "y1",   "nextup",    "nextdown"};
  const std::string binary[] = {"atan2", "copysign",  "drem", "fdim",      "fmax",  "fmin",    "fmod",
                                "hypot", "nextafter", "pow",  "remainder", "scalb", "fmaxmag", "fminmag"};
  const auto inputs = numbers();
  compare(library, library.exported(), 150, [&](Answers& answers) {
    for (const auto& name : unary) {
      auto* f = library.pointer<double(double)>(name.c_str());
      auto* g = library.pointer<float(float)>((name + "f").c_str());
      auto* h = library.pointer<long double(long double)>((name + "l").c_str());
      for (const double x : inputs) {
        if (f != nullptr) answers.add(f(x));
        if (g != nullptr) answers.add(g(static_cast<float>(x)));
        if (h != nullptr) answers.add(h(static_cast<long double>(x)));
      }
    }
    for (const auto& name : binary) {
      auto* f = library.pointer<double(double, double)>(name.c_str());
      auto* g = library.pointer<float(float, float)>((name + "f").c_str());
      for (size_t i = 0; i + 1 < inputs.size(); ++i) {
        if (f != nullptr) answers.add(f(inputs[i], inputs[i + 1]));
        if (g != nullptr) answers.add(g(static_cast<float>(inputs[i]), static_cast<float>(inputs[i + 1])));
      }
    }
  });
}

TEST(Library, Compression) {
  PatchedLibrary library("libz.so.1");
  if (!library.loaded()) GTEST_SKIP() << "no libz.so.1";
  std::mt19937 random(5);
  std::string text;
  while (text.size() < 200000) text += std::to_string(random() % 5000) + (random() % 7 ? " " : "\n");
  auto* compress = library.pointer<int(char*, unsigned long*, const char*, unsigned long, int)>("compress2");
  auto* uncompress = library.pointer<int(char*, unsigned long*, const char*, unsigned long)>("uncompress");
  auto* crc = library.pointer<unsigned long(unsigned long, const char*, unsigned)>("crc32");
  auto* adler = library.pointer<unsigned long(unsigned long, const char*, unsigned)>("adler32");
  auto* combine = library.pointer<unsigned long(unsigned long, unsigned long, long)>("crc32_combine");
  compare(library, library.exported(), 12, [&](Answers& answers) {
    for (int level = 0; level <= 9; ++level) {
      std::string packed(text.size() + 4096, 0), back(text.size(), 0);
      unsigned long size = packed.size(), back_size = back.size();
      answers.add(compress(packed.data(), &size, text.data(), text.size(), level));
      packed.resize(size);
      answers.add(packed);
      answers.add(uncompress(back.data(), &back_size, packed.data(), size));
      EXPECT_TRUE(back == text);
      answers.add(crc(0, packed.data(), static_cast<unsigned>(size)));
      answers.add(adler(1, packed.data(), static_cast<unsigned>(size)));
      answers.add(combine(crc(0, text.data(), 100), crc(0, text.data() + 100, 77), 77));
    }
  });
}

TEST(Library, Cryptography) {
  PatchedLibrary library("libcrypto.so.3");
  if (!library.loaded()) GTEST_SKIP() << "no libcrypto.so.3";
  auto* digest_by_name = library.pointer<const void*(const char*)>("EVP_get_digestbyname");
  auto* digest =
      library.pointer<int(const void*, size_t, uint8_t*, unsigned*, const void*, void*)>("EVP_Digest");
  auto* hmac =
      library.pointer<uint8_t*(const void*, const void*, int, const uint8_t*, size_t, uint8_t*, unsigned*)>(
          "HMAC");
  auto* cipher_by_name = library.pointer<const void*(const char*)>("EVP_get_cipherbyname");
  auto* new_context = library.pointer<void*()>("EVP_CIPHER_CTX_new");
  auto* free_context = library.pointer<void(void*)>("EVP_CIPHER_CTX_free");
  auto* start = library.pointer<int(void*, const void*, void*, const uint8_t*, const uint8_t*, int)>(
      "EVP_CipherInit_ex");
  auto* update = library.pointer<int(void*, uint8_t*, int*, const uint8_t*, int)>("EVP_CipherUpdate");
  auto* finish = library.pointer<int(void*, uint8_t*, int*)>("EVP_CipherFinal_ex");
  auto* number = library.pointer<int(void**, const char*)>("BN_hex2bn");
  auto* new_number = library.pointer<void*()>("BN_new");
  auto* new_numbers = library.pointer<void*()>("BN_CTX_new");
  auto* power = library.pointer<int(void*, const void*, const void*, const void*, void*)>("BN_mod_exp");
  auto* text_of = library.pointer<char*(const void*)>("BN_bn2hex");
  std::mt19937 random(6);
  std::string data(5000, 0);
  for (char& c : data) c = static_cast<char>(random());
  const auto* bytes = reinterpret_cast<const uint8_t*>(data.data());
  compare(library, library.exported(), 150, [&](Answers& answers) {
    for (const char* name : {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-512",
                             "blake2b512", "blake2s256", "sm3", "ripemd160", "shake128"})
      for (const size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{1000}, data.size()}) {
        uint8_t out[64] = {};
        unsigned out_size = 0;
        answers.add(digest(bytes, size, out, &out_size, digest_by_name(name), nullptr));
        answers.add(out);
        if (std::string_view(name) != "shake128") {
          hmac(digest_by_name(name), bytes, 20, bytes, size, out, &out_size);
          answers.add(out);
        }
      }
    for (const char* name : {"aes-128-cbc", "aes-256-ctr", "aes-128-gcm", "aes-256-ecb", "chacha20",
                             "camellia-128-cbc", "aria-128-cbc", "des-ede3-cbc", "sm4-cbc"}) {
      void* context = new_context();
      std::vector<uint8_t> out(data.size() + 64);
      int size = 0, rest = 0;
      answers.add(start(context, cipher_by_name(name), nullptr, bytes, bytes + 64, 1));
      answers.add(update(context, out.data(), &size, bytes, 4000));
      answers.add(finish(context, out.data() + size, &rest));
      answers.add(std::string(out.begin(), out.end()));
      free_context(context);
    }
    void *base = nullptr, *exponent = nullptr, *modulus = nullptr;
    number(&base, "123456789abcdef0123456789abcdef123456789");
    number(&exponent, "10001deadbeefcafe");
    number(&modulus, "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc75");
    void* result = new_number();
    answers.add(power(result, base, exponent, modulus, new_numbers()));
    answers.add(std::string(text_of(result)));
  });
}

// Those of libc that this process may call while they are patched: pure, with known arguments. Their implementations are chosen
// when libc is loaded, so that their sizes are not known here.
TEST(Library, StringsAndCharacters) {
  PatchedLibrary library("libc.so.6");
  if (!library.loaded()) GTEST_SKIP() << "no libc.so.6";
  using Text = const char*;
  std::map<uint64_t, uint64_t> functions;
  const auto all = library.exported();
  const auto take = [&](const char* name) {
    const auto at = reinterpret_cast<uint64_t>(dlsym(RTLD_DEFAULT, name));
    if (at == 0) return;
    const auto known = all.find(at);
    functions[at] = known == all.end() ? 0 : known->second;
  };
  const char* characters[] = {"isalnum",  "isalpha", "isascii", "isblank", "iscntrl", "isdigit",
                              "isgraph",  "islower", "isprint", "ispunct", "isspace", "isupper",
                              "isxdigit", "toascii", "tolower", "toupper", "abs",     "ffs"};
  const char* of_one[] = {"strlen", "atoi",      "atol",         "atoll",
                          "a64l",   "inet_addr", "inet_network", "gnu_get_libc_version"};
  const char* of_two[] = {"strcmp", "strcasecmp", "strspn", "strcspn", "strcoll", "strverscmp"};
  const char* finding[] = {"strstr", "strpbrk", "strcasestr"};
  const char* of_two_and_size[] = {"strncmp", "strncasecmp", "memcmp", "bcmp"};
  const char* finding_character[] = {"strchr", "strrchr", "index", "rindex", "strchrnul", "rawmemchr"};
  const char* finding_in[] = {"memchr", "memrchr"};
  const char* copying[] = {"memcpy", "memmove", "mempcpy", "memccpy", "strncpy", "stpncpy"};
  const char* converting[] = {"strtol", "strtoul", "strtoll", "strtoull"};
  const char* reals[] = {"strtod", "atof"};
  const char* others[] = {
      "memset",   "qsort",    "qsort_r",   "bsearch",   "memmem",     "memfrob",  "swab",      "strnlen",
      "lfind",    "l64a",     "inet_ntop", "inet_pton", "inet_aton",  "gmtime_r", "timegm",    "strftime",
      "strtok_r", "strsep",   "rand_r",    "jrand48",   "erand48",    "nrand48",  "wcslen",    "wcscmp",
      "wcschr",   "wmemcmp",  "wcstol",    "wcsspn",    "div",        "ldiv",     "snprintf",  "vsnprintf",
      "sscanf",   "vsscanf",  "fnmatch",   "regcomp",   "regexec",    "regfree",  "strsignal", "basename",
      "dirname",  "htonl",    "htons",     "ntohl",     "ecvt_r",     "fcvt_r",   "insque",    "towupper",
      "iswalpha", "mbstowcs", "wcstombs",  "btowc",     "strerror_r", "getopt",   "strdup",    "strndup",
      "strcat",   "strncat",  "strcpy",    "stpcpy",    "strtoimax",  "iswctype", "wctype"};
  for (const auto& list :
       {std::span<const char* const>(characters), std::span<const char* const>(of_one),
        std::span<const char* const>(of_two), std::span<const char* const>(finding),
        std::span<const char* const>(of_two_and_size), std::span<const char* const>(finding_character),
        std::span<const char* const>(finding_in), std::span<const char* const>(copying),
        std::span<const char* const>(converting), std::span<const char* const>(reals),
        std::span<const char* const>(others)})
    for (const char* name : list) take(name);
  const Text texts[] = {
      "",          "a",           "ab",     "12345",
      "-77",       "0x1fz",       "3.25e7", "The quick brown fox jumps over the lazy dog",
      "the Quick", "192.168.7.9", "fox",    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"};
  const auto call = [&]<typename Signature>(const char* name, Signature*) {
    return reinterpret_cast<Signature*>(dlsym(RTLD_DEFAULT, name));
  };
  const auto in = [](Text found, Text text) { return found == nullptr ? ptrdiff_t{-1} : found - text; };
  compare(library, functions, 60, [&](Answers& answers) {
    for (const char* name : characters)
      for (int c = 0; c < 256; ++c) answers.add(call(name, static_cast<int (*)(int)>(nullptr))(c));
    for (Text a : texts) {
      for (const char* name : of_one)
        if (std::string_view(name) != "gnu_get_libc_version")
          answers.add(static_cast<int>(call(name, static_cast<long (*)(Text)>(nullptr))(a)));
      for (const char* name : converting)
        for (const int radix : {0, 10, 16, 36}) {
          char* end = nullptr;
          answers.add(call(name, static_cast<long (*)(Text, char**, int)>(nullptr))(a, &end, radix));
          answers.add(in(end, a));
        }
      answers.add(call("atof", static_cast<double (*)(Text)>(nullptr))(a));
      answers.add(call("strtod", static_cast<double (*)(Text, char**)>(nullptr))(a, nullptr));
      for (const char* name : finding_character) {
        if (std::string_view(name) == "rawmemchr") continue;
        answers.add(in(call(name, static_cast<Text (*)(Text, int)>(nullptr))(a, 'o'), a));
      }
      for (const char* name : finding_in)
        answers.add(in(call(name, static_cast<Text (*)(Text, int, size_t)>(nullptr))(a, 'b', strlen(a)), a));
      for (const char* name : copying) {
        char to[128] = {};
        if (std::string_view(name) == "memccpy") {
          answers.add(
              in(call(name, static_cast<Text (*)(char*, Text, int, size_t)>(nullptr))(to, a, 'x', strlen(a)),
                 to));
        } else {
          answers.add(
              in(call(name, static_cast<Text (*)(char*, Text, size_t)>(nullptr))(to, a, strlen(a)), to));
        }
        answers.add(to);
      }
      for (Text b : texts) {
        for (const char* name : of_two) {
          const int found = call(name, static_cast<int (*)(Text, Text)>(nullptr))(a, b);
          answers.add(std::string_view(name).ends_with("spn") ? found : (found > 0) - (found < 0));
        }
        for (const char* name : finding)
          answers.add(in(call(name, static_cast<Text (*)(Text, Text)>(nullptr))(a, b), a));
        for (const char* name : of_two_and_size)
          answers.add(call(name, static_cast<int (*)(Text, Text, size_t)>(nullptr))(a, b, 1) > 0);
        answers.add(call("fnmatch", static_cast<int (*)(Text, Text, int)>(nullptr))("*o*", a, 0));
      }
      char made[200] = {};
      answers.add(call("snprintf", static_cast<int (*)(char*, size_t, Text, ...)>(nullptr))(
          made, sizeof made, "%s|%d|%x|%.9g|%8.3f", a, 42, 0xbeefu, 1.0 / 3, 2.5));
      answers.add(made);
      int one = 0;
      char word[64] = {};
      answers.add(call("sscanf", static_cast<int (*)(Text, Text, ...)>(nullptr))(a, "%d.%60s", &one, word));
      answers.add(one);
      answers.add(word);
    }
    std::mt19937 random(9);
    std::vector<int> values(500);
    for (int& value : values) value = static_cast<int>(random());
    call("qsort", static_cast<void (*)(void*, size_t, size_t, int (*)(const void*, const void*))>(nullptr))(
        values.data(), values.size(), sizeof(int), [](const void* a, const void* b) {
          const int x = *static_cast<const int*>(a), y = *static_cast<const int*>(b);
          return (x > y) - (x < y);
        });
    EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
    for (const int value : values) answers.add(value);
    unsigned seed = 3;
    for (int i = 0; i < 20; ++i) answers.add(call("rand_r", static_cast<int (*)(unsigned*)>(nullptr))(&seed));
    for (long when = -100000; when < 2000000000; when += 98765432) {
      tm parts{};
      char text[64] = {};
      call("gmtime_r", static_cast<tm* (*)(const long*, tm*)>(nullptr))(&when, &parts);
      call("strftime", static_cast<size_t (*)(char*, size_t, Text, const tm*)>(nullptr))(text, sizeof text,
                                                                                         "%F %T %j", &parts);
      answers.add(text);
      answers.add(call("timegm", static_cast<long (*)(tm*)>(nullptr))(&parts));
    }
    char memory[4096];
    for (size_t size = 0; size < sizeof memory; size += 61) {
      call("memset", static_cast<void* (*)(void*, int, size_t)>(nullptr))(memory, static_cast<int>(size),
                                                                          sizeof memory - size);
      call("memmove", static_cast<void* (*)(void*, const void*, size_t)>(nullptr))(memory + size / 2, memory,
                                                                                   size / 2);
    }
    answers.add(memory);
    for (const wchar_t* text : {L"", L"wide", L"7777", L"wider and wider"}) {
      answers.add(call("wcslen", static_cast<size_t (*)(const wchar_t*)>(nullptr))(text));
      answers.add(
          call("wcscmp", static_cast<int (*)(const wchar_t*, const wchar_t*)>(nullptr))(text, L"wide") > 0);
      answers.add(
          call("wcstol", static_cast<long (*)(const wchar_t*, wchar_t**, int)>(nullptr))(text, nullptr, 10));
    }
  });
}

}  // namespace
}  // namespace bpftime::rewrite
