#include "base/progress.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/fd.h"
#include "base/memfd.h"

namespace bpftime {
namespace {

// Odd versions are being written; two versions around one reading mean that it is no whole one.
struct Page {
  uint32_t version;
  uint32_t done, all;
  char what[116];
};
static_assert(sizeof(Page) == 128);

Page* page = nullptr;

std::string file_in(const std::string& directory) { return directory + "/progress"; }

}  // namespace

void publish_progress_in(const std::string& directory) {
  const Fd file(::open(file_in(directory).c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file || ::ftruncate(file.get(), kPageSize) != 0) return;
  void* mapped = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) return;
  page = static_cast<Page*>(mapped);
  page->version &= ~1u;  // a worker that was killed while writing
  set_progress("");
}

void set_progress(std::string_view what, uint32_t done, uint32_t all) {
  if (page == nullptr) return;
  const uint32_t version = page->version;
  __atomic_store_n(&page->version, version + 1, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  const size_t size = std::min(what.size(), sizeof page->what - 1);
  std::memcpy(page->what, what.data(), size);
  page->what[size] = '\0';
  page->done = done;
  page->all = all;
  __atomic_store_n(&page->version, version + 2, __ATOMIC_RELEASE);
}

std::optional<Progress> read_progress(const std::string& directory) {
  const Fd file(::open(file_in(directory).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  constexpr int kTries = 3;
  for (int i = 0; i < kTries; ++i) {
    Page before{}, after{};
    if (::pread(file.get(), &before, sizeof before, 0) != static_cast<ssize_t>(sizeof before) ||
        ::pread(file.get(), &after, sizeof after, 0) != static_cast<ssize_t>(sizeof after))
      return std::nullopt;
    if (before.version != after.version || before.version % 2 != 0) continue;
    const std::string what(before.what, ::strnlen(before.what, sizeof before.what));
    if (what.empty()) return std::nullopt;
    return Progress{what, before.done, before.all};
  }
  return std::nullopt;
}

}  // namespace bpftime
