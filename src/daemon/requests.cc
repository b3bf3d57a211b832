// The worker's requests: from message to kernel call to reply.
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "daemon/commands.h"
#include "daemon/sessions.h"
#include "daemon/worker.h"
#include "target/proc_files.h"
#include "wire/bpf_call.h"

namespace bpftime::daemon {

using kernel::BpfReply;
using wire::MessageType;

namespace {

verifier::KernelVerifier kernel_verifier_of(uint32_t hello_flags) {
  if (hello_flags & wire::kHelloKernelVerifierRequire) return verifier::KernelVerifier::kRequire;
  if (hello_flags & wire::kHelloKernelVerifierOff) return verifier::KernelVerifier::kOff;
  return verifier::KernelVerifier::kAdvise;
}

// kernel::HostClass::owner of what this process loads.
std::string owner_of(pid_t pid) {
  const auto text = target::read_proc_file(target::proc_path(pid, "/stat"));
  const auto stat = text ? target::parse_stat(*text) : std::nullopt;
  return stat ? std::to_string(pid) + "@" + std::to_string(stat->start_time) : "";
}

// A file of this text, positioned at its start.
Result<Fd> file_of(const char* name, const std::string& text) {
  Fd file(::memfd_create(name, MFD_CLOEXEC));
  if (!file) return Error::from_errno("trace: file");
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = ::write(file.get(), text.data() + done, text.size() - done);
    if (wrote <= 0) return Error::from_errno("trace: write");
    done += static_cast<size_t>(wrote);
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0) return Error::from_errno("trace: seek");
  return file;
}

// Nameless programs are libraries' questions about the kernel.
void audit_load(AuditLog& audit, const kernel::Kernel& kernel, const kernel::BpfRequest& request,
                const Peer& peer, const BpfReply& reply) {
  const char* field = request.attr->prog_name;
  const std::string name(field, ::strnlen(field, BPF_OBJ_NAME_LEN));
  if (name.empty() || name.starts_with("libbpf_") || name == "det_arg_ctx") return;
  const auto host = request.policy != nullptr
                        ? request.policy->class_of(name, request.policy_class, request.attr->prog_type)
                        : nullptr;
  const auto made = reply.fd ? kernel.objects().find_fd(reply.fd.get()) : nullptr;
  audit.load({peer.pid, peer.uid, name, host ? host->constraints.class_name : "", host ? host->policy : "",
              made ? made->id : 0, reply.result < 0 ? reply.text : ""});
}

}  // namespace

bool Worker::send_reply(Connection& client, uint32_t sequence, BpfReply reply) {
  wire::ReplyBuilder builder(reply.result, reply.text);
  for (const auto& out : reply.out) builder.add_blob(out.attr_offset, out.bytes);
  if (!reply.rest.empty()) builder.append(reply.rest);
  if (reply.result < 0) log_debug("client " + std::to_string(client.peer().pid) + ": " + reply.text);
  if (!reply.fd) return client.reply(sequence, builder.body());
  const int fds[] = {reply.fd.get()};
  return client.reply(sequence, builder.body(), fds);
}

bool Worker::handle(Connection& client, const wire::Message& message) {
  if (!client.hello) {
    const auto hello = read_at<wire::Hello>(message.body, 0);
    if (message.type != MessageType::kHello || !hello) return false;
    client.hello = *hello;
    return send_reply(client, message.sequence, {});
  }
  switch (message.type) {
    case MessageType::kBpf:
      return handle_bpf(client, message);
    case MessageType::kPolicy:
      return handle_policy(client, message);
    case MessageType::kPerfEventOpen:
      return handle_perf_event_open(client, message);
    case MessageType::kPerfIoctl:
    case MessageType::kPerfMmap:
    case MessageType::kReadiness:
      return handle_perf(client, message);
    case MessageType::kCommand:
      return handle_command(client, message);
    case MessageType::kTargetHello:
      return handle_target_hello(client, message);
    case MessageType::kTraceSubscribe:
      return handle_trace_subscribe(client, message);
    default:
      return send_reply(
          client, message.sequence,
          BpfReply::fail(EPROTO, "message type " + std::to_string(static_cast<uint32_t>(message.type)) +
                                     ": not known to this daemon; try `bpftime daemon restart`"));
  }
}

bool Worker::handle_bpf(Connection& client, const wire::Message& message) {
  auto call = wire::decode_bpf_call(message.body, message.fds.size());
  if (!call)
    return send_reply(client, message.sequence, BpfReply::fail(call.error().code, call.error().message));
  bpf_attr attr{};
  static_assert(sizeof attr <= wire::kAttrBufferSize);
  std::memcpy(&attr, call->attr(), sizeof attr);
  if (!call->tail_is_zero(sizeof attr))
    return send_reply(client, message.sequence,
                      BpfReply::fail(E2BIG, "bpf: attr has bytes set beyond what is known here"));
  kernel::BpfRequest request;
  request.command = call->command();
  request.attr_size = call->attr_size();
  request.attr = &attr;
  request.kernel_verifier = kernel_verifier_of(client.hello->flags);
  request.uid = client.peer().uid;
  request.pid = static_cast<uint32_t>(client.peer().pid);
  request.policy = client.policy.get();
  request.policy_class = client.policy_class;
  request.in = [&](uint32_t offset) {
    const auto* blob = call->blob(offset);
    return blob ? blob->bytes : Bytes();
  };
  request.out_size = [&](uint32_t offset) {
    const auto* blob = call->blob(offset);
    return blob ? blob->out_length : 0;
  };
  request.fd = [&](wire::FdPlace place, uint32_t offset) {
    const auto index = call->fd_index(place, offset);
    return index ? message.fds[*index].get() : -1;
  };
  if (request.command == BPF_PROG_LOAD)
    set_progress("verifying program " +
                 std::string(attr.prog_name, ::strnlen(attr.prog_name, sizeof attr.prog_name)));
  BpfReply reply = kernel_.bpf(request);
  if (const auto run = std::exchange(run_begun_, std::nullopt)) {
    AwaitedRun& awaited = runs_[*run];
    awaited.client = client.descriptor();
    awaited.sequence = message.sequence;
    awaited.attr = attr;
    return true;
  }
  if (request.command == BPF_PROG_LOAD) audit_load(audit_, kernel_, request, client.peer(), reply);
  return send_reply(client, message.sequence, std::move(reply));
}

bool Worker::handle_policy(Connection& client, const wire::Message& message) {
  const auto request = read_at<wire::PolicyRequest>(message.body, 0);
  const auto refuse = [&](const Error& error) {
    return send_reply(client, message.sequence, BpfReply::fail(error.code, error.message));
  };
  if (!request || request->path_length > wire::kPolicyTextMax ||
      request->host_length > wire::kPolicyTextMax || request->class_length > wire::kPolicyTextMax ||
      message.body.size() - sizeof *request !=
          uint64_t{request->path_length} + request->host_length + request->class_length)
    return refuse({EPROTO, "policy: message cut short"});
  const auto* text = reinterpret_cast<const char*>(message.body.data()) + sizeof *request;
  const std::string path(text, request->path_length);
  const std::string host(text + path.size(), request->host_length);
  const std::string wanted(text + path.size() + host.size(), request->class_length);
  if (!path.empty()) {
    const pid_t asker = client.peer().pid;
    auto opened = open_policy(kernel_, path, host,
                              {owner_of(asker), policy_session_of(asker), policy_is_checked(asker)});
    if (!opened) {
      audit_.refusal(client.peer().pid, client.peer().uid, path, opened.error().message);
      return refuse(opened.error());
    }
    client.policy = std::move(*opened);
    client.policy->count_runs = (request->flags & wire::kPolicyCountRuns) != 0;
    audit_.grant(client.peer().pid, client.peer().uid, *client.policy);
  }
  if (!wanted.empty() && (!client.policy || client.policy->class_of("", wanted) == nullptr))
    return refuse({ENOENT, "policy: no class \"" + wanted + "\"" +
                               (client.policy ? " in " + client.policy->path : "")});
  client.policy_class = wanted;
  return send_reply(client, message.sequence, {});
}

bool Worker::handle_perf_event_open(Connection& client, const wire::Message& message) {
  auto request = read_at<wire::PerfEventOpen>(message.body, 0);
  if (!request ||
      message.body.size() - sizeof *request < uint64_t{request->path_length} + request->given_length)
    return send_reply(client, message.sequence, BpfReply::fail(EPROTO, "perf event: message cut short"));
  const auto* text = reinterpret_cast<const char*>(message.body.data()) + sizeof *request;
  const std::string path(text, request->path_length);
  const std::string given(text + request->path_length, request->given_length);
  if (request->pid == 0) request->pid = client.peer().pid;  // perf_event_open(2): the caller itself
  return send_reply(client, message.sequence,
                    kernel_.perf_event_open(*request, path, given.empty() ? path : given));
}

bool Worker::handle_perf(Connection& client, const wire::Message& message) {
  auto reply = BpfReply::fail(EPROTO, "perf request: no descriptor or message cut short");
  if (!message.fds.empty()) {
    const int event = message.fds[0].get();
    const int argument_fd = message.fds.size() > 1 ? message.fds[1].get() : -1;
    const auto ioctl = read_at<wire::PerfIoctl>(message.body, 0);
    const auto mmap = read_at<wire::PerfMmap>(message.body, 0);
    if (message.type == MessageType::kReadiness) reply = kernel_.readiness(event);
    if (message.type == MessageType::kPerfIoctl && ioctl)
      reply = kernel_.perf_ioctl(event, ioctl->command, ioctl->argument, argument_fd);
    if (message.type == MessageType::kPerfMmap && mmap) reply = kernel_.perf_mmap(event, mmap->size);
  }
  return send_reply(client, message.sequence, std::move(reply));
}

bool Worker::handle_target_hello(Connection& client, const wire::Message& message) {
  // The peer's pid is the kernel's word, not the client's.
  auto attached = attacher_->attach(client.peer().pid);
  follow_targets();
  if (!attached) {
    log_warning("target " + std::to_string(client.peer().pid) + ": " + attached.error().message);
    return send_reply(client, message.sequence,
                      BpfReply::fail(attached.error().code, attached.error().message));
  }
  return send_reply(client, message.sequence, {});
}

bool Worker::handle_command(Connection& client, const wire::Message& message) {
  if (client.hello->kind != wire::ClientKind::kCli)
    return send_reply(client, message.sequence,
                      BpfReply::fail(EPERM, "command: only the CLI gives commands"));
  const std::string_view text(reinterpret_cast<const char*>(message.body.data()), message.body.size());
  auto answer = run_command(*this, client, text);
  if (!answer)
    return send_reply(client, message.sequence, BpfReply::fail(answer.error().code, answer.error().message));
  wire::ReplyBuilder builder;
  builder.append(Bytes(reinterpret_cast<const uint8_t*>(answer->data()), answer->size()));
  return client.reply(message.sequence, builder.body());
}

BpfReply Worker::open_trace(uint32_t flags) {
  flush_trace();  // what was printed before this request is there when it is answered
  BpfReply reply;
  if (flags & wire::kTraceClear) {
    pipes_.clear(trace_);
    return reply;
  }
  Result<Fd> file = Error{};
  if (flags & wire::kTracePipe) {
    int ours = -1;
    file = pipes_.open(trace_, &ours);
    if (file) watch_pipe(ours);
  } else {
    file = file_of("trace", trace_.snapshot(pipes_.consumed()));
  }
  if (!file) return BpfReply::fail(file.error().code, file.error().message);
  reply.fd = std::move(*file);
  return reply;
}

bool Worker::handle_trace_subscribe(Connection& client, const wire::Message& message) {
  const auto wanted = read_at<wire::TraceSubscribe>(message.body, 0);
  if (!wanted) return false;
  if (wanted->flags & (wire::kTracePipe | wire::kTraceSnapshot | wire::kTraceClear))
    return send_reply(client, message.sequence, open_trace(wanted->flags));
  if (!send_reply(client, message.sequence, {})) return false;
  client.trace = *wanted;
  // What is buffered first; `send_trace` sends what is newer than it sent last.
  for (const auto& entry : trace_.entries()) {
    if (entry.number > trace_sent_) break;
    if (wanted->lineage != 0 && wanted->lineage != entry.lineage) continue;
    if (!client.send_line(message.sequence, entry.lineage, entry.text, 1000)) return false;
  }
  if (wanted->flags & wire::kTraceFollow) return true;
  return client.send_line(message.sequence, 0, "", 1000);  // no text: end of stream
}

}  // namespace bpftime::daemon
