// Text that --help and the man pages share.
#pragma once

namespace bpftime::cli {

const char* exit_status_text();

}  // namespace bpftime::cli
