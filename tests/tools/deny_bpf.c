// deny_bpf PROGRAM …: runs a program to which bpf(2) and perf_event_open(2) answer EPERM, as root's child as nobody: the
// machine of somebody who may do nothing special. The end-to-end tests run the demo under it.
#include <errno.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fail(const char* what) {
  fprintf(stderr, "deny_bpf: %s: %s\n", what, strerror(errno));
  return 126;
}

int main(int argc, char** argv) {
  const unsigned int nobody = 65534;
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_perf_event_open, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};
  if (argc < 2) {
    fprintf(stderr, "usage: deny_bpf PROGRAM …\n");
    return 2;
  }
  if (geteuid() == 0 && (setgroups(0, NULL) || setgid(nobody) || setuid(nobody)))
    return fail("become nobody");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return fail("no_new_privs");
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) return fail("seccomp");
  execvp(argv[1], argv + 1);
  fail(argv[1]);
  return errno == ENOENT ? 127 : 126;
}
