// A collector's answer is read within its bytes, and what is read lies inside them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "otlp/encoder.hpp"
#include "otlp/protobuf.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto inside = [&](std::string_view part) {
    return part.empty() || (part.data() >= bytes.data() &&
                            part.data() + part.size() <= bytes.data() + bytes.size());
  };
  if (const auto response = mik::otlp::read_export_response(bytes);
      response.has_value() && !inside(response->error_message)) {
    std::abort();
  }
  // Each field takes a byte at least, so the reader ends.
  mik::otlp::WireReader reader(bytes);
  std::size_t fields = 0;
  while (const auto field = reader.next()) {
    if (++fields > size || !inside(field->bytes)) {
      std::abort();
    }
  }
  // Any bytes make a text that is valid inside a message, and no longer than three times.
  std::string out;
  mik::otlp::put_text(out, 1, bytes, 4096);
  mik::otlp::WireReader written(out);
  const auto text = written.next();
  if (!text.has_value() || text->bytes.size() > 3 * size || written.next().has_value() ||
      written.malformed()) {
    std::abort();
  }
  // Whatever a client has put into them, spans are messages that can be read.
  mik::otlp::Span span;
  span.trace_state = span.name = span.failure = bytes;
  span.failed = true;
  out.clear();
  mik::otlp::append_span(out, span);
  const std::string request = mik::otlp::export_request({}, out);
  mik::otlp::WireReader spans(out);
  mik::otlp::WireReader inner(spans.next().value_or(mik::otlp::WireField()).bytes);
  while (inner.next().has_value()) {
  }
  if (spans.malformed() || inner.malformed() || spans.next().has_value() ||
      !request.ends_with(out)) {
    std::abort();
  }
  return 0;
}
