// The filter of Compression: takes the content of one response from its handler, compressed pieces
// of it are what the connection sees. Internal to src/http. Confined to the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "http/compression.hpp"

namespace mik::http {

class CompressedBody final : public ExchangeHandler {
 public:
  explicit CompressedBody(Compression& owner) : owner_(owner) {}

  void begin(Exchange& exchange, ExchangeHandler& source, Coding coding,
             std::unique_ptr<Encoder> encoder);

  Flow on_body(std::string_view bytes) override { return source_->on_body(bytes); }
  void on_body_end(std::span<const Field> trailers) override { source_->on_body_end(trailers); }
  void on_body_error(BodyError error) override { source_->on_body_error(error); }
  std::size_t peek(std::span<iovec> pieces) override;
  void consume(std::size_t bytes) override;
  SourceState source_state() override;
  std::span<const Field> trailers() override { return source_->trailers(); }
  void on_closed(const Closed& closed) override;

 private:
  // A piece that the pool compresses. It has the encoder meanwhile.
  struct Job {
    Coding coding = Coding::kIdentity;
    std::unique_ptr<Encoder> encoder;
    std::string in;
    std::string out;
    EncodeStep step = EncodeStep::kMore;
    bool good = false;
  };

  void fill();
  void encode(std::span<const iovec> pieces, std::size_t bytes, EncodeStep step);
  bool start_job(std::span<const iovec> pieces, std::size_t bytes, EncodeStep step);
  void on_job(const std::shared_ptr<Job>& job);
  void after(EncodeStep step, bool good);
  void pump_later();
  void release_encoder();

  Compression& owner_;
  Exchange* exchange_ = nullptr;  // null: idle
  ExchangeHandler* source_ = nullptr;
  Coding coding_ = Coding::kIdentity;
  std::unique_ptr<Encoder> encoder_;  // null while a job has it, and when it is through
  std::string out_;
  std::size_t sent_ = 0;          // of out_
  std::uint64_t generation_ = 0;  // of uses: tasks of an earlier one find it changed
  bool unflushed_ = false;        // the encoder may keep something back
  bool more_ = false;             // the source had more than was taken
  bool posted_ = false;           // a pump is on its way
  bool busy_ = false;             // a job runs
  bool finished_ = false;
  bool broken_ = false;
};

}  // namespace mik::http
