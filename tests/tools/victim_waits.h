// The victim's calls that wait under a signal mask of their own. Handlers that interrupt them call victim_call with a bad pointer.
#pragma once

#include <string>

// One write to standard output.
__attribute__((format(printf, 1, 2))) void say(const char* format, ...);

// `how`: "ppoll", "raw ppoll" (past libc's wrapper), …
void wait_for_signal(const std::string& how);  // asleep until SIGUSR1 comes from outside
void wait_in_all_ways();  // SIGUSR1 comes as soon as it is let through; and what has to be refused
void cancel_waits();
