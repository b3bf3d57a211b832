// Shared by both halves of nested_maps.
#pragma once

#define SLOTS 4
