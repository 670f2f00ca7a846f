// Compression of responses on their way out: which ones, and the filter that does it. One per
// worker; confined to the loop thread, but for large pieces, which are compressed by the pool.
//
//   connection ── peek, consume ──► CompressedBody ── peek, consume ──► the handler
//
// Whoever answers asks prepare() with the fields it is about to send; for another coding than
// identity it then calls attach() before Exchange::start(), and goes on as without it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "http/accept_encoding.hpp"
#include "http/encoder.hpp"
#include "http/exchange.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"

namespace mik::http {

class CompressedBody;

// text/* but event streams, and what has json, xml or javascript in its name. Of a Content-Type.
bool is_compressible_type(std::string_view type) noexcept;

// Known bodies below this stay as they are: framing and CPU cost more than they save.
inline constexpr std::uint64_t kCompressFrom = 1024;

class Compression {
 public:
  enum class Mode : std::uint8_t { kOn, kOff };
  Compression(net::Loop& loop, net::Offload& offload, Mode mode);
  ~Compression();
  Compression(const Compression&) = delete;
  Compression& operator=(const Compression&) = delete;

  // What of a request decides how its answer is sent.
  struct Wanted {
    AcceptedCodings codings;
    bool has_strong_etags_only = false;  // of what the client asks whether it is still good
  };
  // Nothing when compression is off.
  Wanted wanted(std::span<const Field> request_fields) const noexcept;

  // For a final response of this status with these fields, which are changed in place to those that
  // fit what is sent: Vary where the answer depends on Accept-Encoding, Content-Encoding, a weak
  // ETag, no Accept-Ranges. A 304 gets what its 200 would have had (RFC 9110 section 15.4.5), as
  // far as it shows: a type that is never compressed stays alone, and so do tags where the client
  // has strong ones only, which were not compressed when it got them. `length` is that of the
  // content where it is known, and is forgotten with another coding. Fields may point into this
  // object until the next call. When many streams are open they have the memory: identity.
  Coding prepare(const Wanted& wanted, int status, std::vector<Field>& fields,
                 std::optional<std::uint64_t>& length);

  // Puts the filter between `exchange` and `source`, which is attached or would be: it is told all
  // that a handler is told, but its content goes out compressed. In vain for HEAD, whose content
  // nobody wants.
  void attach(Exchange& exchange, ExchangeHandler& source, Coding coding);

  // A whole answer whose body is here: as Exchange::respond, compressed where that may be. How much
  // content goes out (if the client wants any); 0 when that is not known yet.
  std::size_t respond(Exchange& exchange, const Wanted& wanted, int status,
                      std::vector<Field>& fields, std::string_view body);

  std::size_t streams() const noexcept { return streams_; }  // with an encoder

 private:
  friend class CompressedBody;
  struct Idle {
    Coding coding;
    std::unique_ptr<Encoder> encoder;
  };

  // Null: too many are in use.
  std::unique_ptr<Encoder> take_encoder(Coding coding);
  void give_encoder(Coding coding, std::unique_ptr<Encoder> encoder);
  void put(CompressedBody& body);
  void add_vary(std::vector<Field>& fields);
  void weaken_etag(std::vector<Field>& fields);

  net::Loop& loop_;
  net::Offload& offload_;
  const Mode mode_;
  std::size_t streams_ = 0;
  std::size_t bytes_ = 0;  // of the encoders that are in use
  std::vector<Idle> idle_encoders_;
  Idle prepared_{};  // by prepare(), for attach()
  std::vector<std::unique_ptr<CompressedBody>> all_;
  std::vector<CompressedBody*> idle_;
  std::string vary_;  // what changed fields point into
  std::string etag_;
  std::string encoded_;
};

}  // namespace mik::http
