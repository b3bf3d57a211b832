// What one process remembers of an LPM trie's keys between two BPF_MAP_GET_NEXT_KEY: all of them, in the order in which Linux
// hands them out, which the hash that holds them does not know. Kept and read by lpm_trie_user.h; host only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bpftime::maps {

class KeyOrder {
 private:
  friend struct LpmOrder;
  bool known_ = false;
  uint64_t count_word_ = 0;    // the map's, when the keys were read
  uint64_t asked_ = 0;         // the map's, when somebody asked in vain
  std::vector<uint8_t> keys_;  // {length, masked address}, each padded to 8 bytes
  size_t count_ = 0;
  size_t gone_ = 0;  // so many of the first ones have been deleted since
  size_t last_ = 0;  // the one handed out last
};

}  // namespace bpftime::maps
