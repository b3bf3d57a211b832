// The firewall's rules and counters: the same maps for the program that observes and for the one that blocks.
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, FW_TABLES);
  __type(key, __u32);
  __type(value, struct fw_table);
} tables SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} active SEC(".maps");

// Requests by verdict, FW_PASS among them.
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, FW_VERDICTS);
  __type(key, __u32);
  __type(value, __u64);
} hits SEC(".maps");
