// Accept of a scrape, and labels. Input: one field value. OpenMetrics is not chosen unless it is
// named, and a label's value can be read back.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "runtime/metrics_writer.hpp"

namespace {

using namespace mik::runtime;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "metrics: %s\n", what);
    std::abort();
  }
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  }
  return result;
}

std::string unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    require(text[i] != '"' && text[i] != '\n', "a label's value ends early");
    if (text[i] == '\\') {
      require(++i < text.size(), "a backslash escapes nothing");
      result += text[i] == 'n' ? '\n' : text[i];
    } else {
      result += text[i];
    }
  }
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::array fields = {mik::http::Field{"accept", text}};
  const MetricsFormat format = metrics_format(fields);
  require(format == MetricsFormat::kText ||
              lower(text).find("application/openmetrics-text") != std::string::npos,
          "OpenMetrics for who did not ask for it");
  const std::array twice = {mik::http::Field{"Accept", text}, mik::http::Field{"Accept", text}};
  require(metrics_format(twice) == format, "a field that is said twice changes the answer");
  std::string escaped;
  escape_label(escaped, text);
  require(unescaped(escaped) == text, "a label's value cannot be read back");
  return 0;
}
