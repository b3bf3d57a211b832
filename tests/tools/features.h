// Shared by both halves of features.
#pragma once

struct note {
  unsigned long long number;
};
