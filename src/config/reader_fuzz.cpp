// mik.toml from arbitrary bytes: either settings, or problems with a place, in clean text.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "config/build.hpp"
#include "config/check.hpp"
#include "config/reader.hpp"

namespace {

using namespace mik::config;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "mik.toml: %s\n", what);
    std::abort();
  }
}

void check_problems(const std::vector<Problem>& problems, bool tell_a_place) {
  for (const Problem& problem : problems) {
    const std::string text = problem.to_string();
    require(text.size() < 20'000, "a problem that is too long");
    require(!tell_a_place || problem.at.line > 0, "a problem without a place");
    for (const char c : text) {
      require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a problem that is not clean");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ReadResult read = read_manifest(text, "/x/mik.toml");
  check_problems(read.problems, size <= kManifestBytesMax);
  const Syntax syntax = {.bind = [](const std::string&) { return ""; },
                         .network = [](const std::string&) { return ""; },
                         .host_pattern = [](const std::string&, HttpPrivate) { return ""; }};
  complete(read.document, {.state = "/state", .working = "/work"});
  const std::vector<Problem> found = check(read.document, syntax, Purpose::kRun);
  check_problems(found, false);
  std::vector<Problem> problems;
  const BuildContext context{
      .machine = {.memory_bytes = 1ull << 30, .disk_bytes = 1ull << 34, .cpus = 2}};
  const Settings settings =
      build(read.document, context, [](std::string_view) { return std::nullopt; }, problems);
  check_problems(problems, false);
  const std::string bytes = serialize(settings);
  require(serialize(deserialize(bytes).value()) == bytes, "settings that do not survive a trip");
  require(settings.guest.max_requests <= settings.max_concurrent_requests, "limits");
  return 0;
}
