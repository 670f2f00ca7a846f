// Accept-Encoding. Input: lines, each one field value. Agrees with a slow reading by splitting, and
// what is chosen was offered and is taken.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "http/accept_encoding.hpp"
#include "http/request_grammar.hpp"

namespace {

using namespace mik::http;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "Accept-Encoding is read wrongly: %s\n", what);
    std::abort();
  }
}

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t");
  return first == std::string::npos ? std::string()
                                    : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

int slow_weight(const std::string& text) {
  const bool zero = text == "0" || text.starts_with("0.");
  const bool one = text == "1" || text.starts_with("1.");
  if ((!zero && !one) || text.size() > 5) {
    return -1;
  }
  std::string digits = text.size() > 2 ? text.substr(2) : "";
  if (digits.find_first_not_of(one ? "0" : "0123456789") != std::string::npos) {
    return -1;
  }
  digits.resize(3, '0');
  return one ? 1000 : std::atoi(digits.c_str());
}

std::map<std::string, int> slow(const std::vector<std::string>& lines) {
  std::map<std::string, int> qualities;
  for (const std::string& line : lines) {
    for (const std::string& element : testing::split(line, ',')) {
      const std::size_t semicolon = element.find(';');
      std::string name = testing::folded(trimmed(element.substr(0, semicolon)));
      int weight = 1000;
      if (semicolon != std::string::npos) {
        const std::string behind = trimmed(element.substr(semicolon + 1));
        weight = behind.starts_with("q=") || behind.starts_with("Q=")
                     ? slow_weight(behind.substr(2))
                     : -1;
      }
      if (weight >= 0) {
        qualities[name == "x-gzip" ? "gzip" : name] = weight;
      }
    }
  }
  return qualities;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::string> lines =
      testing::split(std::string_view(reinterpret_cast<const char*>(data), size), '\n');
  std::vector<Field> fields;
  for (const std::string& line : lines) {
    fields.push_back({"accept-encoding", line});
  }
  const AcceptedCodings accepted = accepted_codings(fields);
  const std::map<std::string, int> known = slow(lines);
  const auto of = [&](const char* name, const char* otherwise) {
    const auto found = known.find(name);
    const auto star = known.find(otherwise);
    return found != known.end() ? found->second : star != known.end() ? star->second : 0;
  };
  require(accepted.gzip == of("gzip", "*") && accepted.brotli == of("br", "*") &&
              accepted.zstd == of("zstd", "*") && accepted.identity == of("identity", "identity"),
          "qualities");
  const std::array offered = {Coding::kBrotli, Coding::kGzip};
  const Coding best = best_coding(accepted, offered);
  require(best != Coding::kZstd, "not offered");
  require(best == Coding::kIdentity || accepted.of(best) > 0, "not taken");
  for (const Coding coding : offered) {
    require(accepted.of(coding) <= accepted.of(best) || best == Coding::kIdentity, "not the best");
  }
  return 0;
}
