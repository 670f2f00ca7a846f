// RUST_LOG against what must hold of any text: levels are nested, a level at the end counts for
// whatever no target names, and nothing but an understood directive moves a target.
#include "telemetry/directives.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

using namespace mik::telemetry;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "RUST_LOG: %s\n", what);
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  bool bad = false;
  const LogFilter filter = LogFilter::parse(text, bad);
  bool never = false;
  const LogFilter all = LogFilter::parse(text + ",warn", never);
  require(!never, "a level was not understood");
  const LogFilter named = LogFilter::parse(text + ",mik::http=debug", never);
  require(named.level(Target::kHttp) == Level::kDebug || text.find("mik::http") != text.npos,
          "the longest target does not count");
  for (std::size_t i = 0; i < kTargets; ++i) {
    const auto target = static_cast<Target>(i);
    require(!bad || filter.level(target) == Level::kInfo, "nothing understood is not info");
    require(all.level(target) == Level::kWarn || text.find('m') != text.npos,
            "a level for all has no effect");
    bool passes = true;
    for (const Level level :
         {Level::kError, Level::kWarn, Level::kInfo, Level::kDebug, Level::kTrace}) {
      require(passes || !filter.passes(level, target), "levels are not nested");
      passes = filter.passes(level, target);
    }
  }
  return 0;
}
