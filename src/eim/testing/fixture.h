// The hosts that CMake compiled for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "eim/manifest.h"

namespace bpftime::eim::testing {

inline std::string fixture(const std::string& name) {
  const char* directory = std::getenv("BPFTIME_EIM_FIXTURES");
  return (directory == nullptr ? std::string("fixtures") : std::string(directory)) + "/" + name;
}

inline std::vector<uint8_t> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline Manifest manifest_of(const std::string& name) {
  auto manifest = read_manifest(fixture(name));
  EXPECT_TRUE(manifest.ok()) << manifest.error().message;
  return manifest.ok() ? std::move(*manifest) : Manifest{};
}

}  // namespace bpftime::eim::testing
