// For tests: an ExportTraceServiceRequest taken apart into what can be compared. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "otlp/protobuf.hpp"

namespace mik::otlp::testing {

struct SeenSpan {
  std::string trace;  // 16 bytes
  std::string id;     // 8 bytes
  std::string parent;
  std::string trace_state;
  std::string name;
  std::uint64_t kind = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t flags = 0;
  std::uint64_t status = 0;
  std::string status_message;
  std::map<std::string, std::string> attributes;
};

struct SeenRequest {
  std::map<std::string, std::string> resource;
  std::string scope;
  std::vector<SeenSpan> spans;
};

inline std::vector<WireField> fields_of(std::string_view message) {
  std::vector<WireField> fields;
  WireReader reader(message);
  while (const auto field = reader.next()) {
    fields.push_back(*field);
  }
  EXPECT_FALSE(reader.malformed());
  return fields;
}

inline void add_attribute(std::string_view message, std::map<std::string, std::string>& out) {
  std::string key;
  std::string value;
  for (const WireField& field : fields_of(message)) {
    if (field.number == 1) {
      key = field.bytes;
    } else {
      for (const WireField& inner : fields_of(field.bytes)) {
        value = inner.number == 1 ? std::string(inner.bytes)
                                  : std::to_string(static_cast<std::int64_t>(inner.value));
      }
    }
  }
  EXPECT_TRUE(out.emplace(key, value).second) << key << " twice";
}

inline SeenSpan span_of(std::string_view message) {
  SeenSpan span;
  for (const WireField& field : fields_of(message)) {
    switch (field.number) {
      case 1:
        span.trace = field.bytes;
        break;
      case 2:
        span.id = field.bytes;
        break;
      case 3:
        span.trace_state = field.bytes;
        break;
      case 4:
        span.parent = field.bytes;
        break;
      case 5:
        span.name = field.bytes;
        break;
      case 6:
        span.kind = field.value;
        break;
      case 7:
        span.start = field.value;
        break;
      case 8:
        span.end = field.value;
        break;
      case 9:
        add_attribute(field.bytes, span.attributes);
        break;
      case 15:
        for (const WireField& inner : fields_of(field.bytes)) {
          (inner.number == 3) ? void(span.status = inner.value)
                              : void(span.status_message = inner.bytes);
        }
        break;
      case 16:
        span.flags = field.value;
        break;
      default:
        ADD_FAILURE() << "field " << field.number;
    }
  }
  return span;
}

inline SeenRequest request_of(std::string_view message) {
  SeenRequest request;
  for (const WireField& resource_spans : fields_of(message)) {
    EXPECT_EQ(resource_spans.number, 1u);
    for (const WireField& part : fields_of(resource_spans.bytes)) {
      for (const WireField& inner : fields_of(part.bytes)) {
        if (part.number == 1) {
          add_attribute(inner.bytes, request.resource);
        } else if (inner.number == 1) {
          for (const WireField& scope : fields_of(inner.bytes)) {
            request.scope += std::string(scope.bytes) + " ";
          }
        } else {
          request.spans.push_back(span_of(inner.bytes));
        }
      }
    }
  }
  return request;
}

}  // namespace mik::otlp::testing
