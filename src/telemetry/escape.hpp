// Text that may come from anybody, made fit for a line of the log or a terminal. Pure functions.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

namespace mik::telemetry {

inline constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

// Appends `text` as the inside of a JSON string: RFC 8259 section 7. Bytes that are not UTF-8
// become U+FFFD; what a terminal or a reader of lines could act on (C1 controls, line and paragraph
// separators, marks of direction) is escaped too. What would be longer than `bytes_max` is cut
// between characters and ends in U+2026.
void append_json_escaped(std::string& out, std::string_view text, std::size_t bytes_max = kNoLimit);

// The same for people: quotes and backslashes stay as they are.
void append_visible(std::string& out, std::string_view text, std::size_t bytes_max = kNoLimit);
std::string visible(std::string_view text);

// True when nothing in it needs an escape.
bool is_plain(std::string_view text) noexcept;

}  // namespace mik::telemetry
