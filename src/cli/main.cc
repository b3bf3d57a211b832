#include "cli/verbs.h"

int main(int argc, char** argv) { return bpftime::cli::run(argc, argv); }
