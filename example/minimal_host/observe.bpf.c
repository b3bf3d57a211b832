// Remembers when the host last served a PUT; runs in the class "observe" of host.policy.yaml.
#include "host.ext.h"

long last_put;

host__processBegin(observe) {
  if (r->method == host__METHOD_PUT && host__host_verbosity > 0) last_put = host__host_time();
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
