#include "http/encoder.hpp"

#include <brotli/encode.h>
#include <zlib.h>
#include <zstd.h>

#include <array>

#include "base/assert.hpp"

namespace mik::http {

namespace {

constexpr std::size_t kBlock = 16 * 1024;

// Makes room for another block behind `used` bytes.
char* block_at(std::string& out, std::size_t used) {
  if (out.size() < used + kBlock) {
    out.resize(used + kBlock);
  }
  return out.data() + used;
}

class Gzip final : public Encoder {
 public:
  Gzip() {
    good_ = ::deflateInit2(&stream_, kLevel, Z_DEFLATED, kWindowBits + kGzipFormat, kMemoryLevel,
                           Z_DEFAULT_STRATEGY) == Z_OK;
  }
  ~Gzip() override { ::deflateEnd(&stream_); }
  Gzip(const Gzip&) = delete;
  Gzip& operator=(const Gzip&) = delete;
  bool good() const { return good_; }

  bool encode(std::string_view input, EncodeStep step, std::string& out) override {
    MIK_ASSERT(input.size() <= kInputMax);
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
    stream_.avail_in = static_cast<uInt>(input.size());
    const int flush = step == EncodeStep::kEnd     ? Z_FINISH
                      : step == EncodeStep::kFlush ? Z_SYNC_FLUSH
                                                   : Z_NO_FLUSH;
    std::size_t used = out.size();
    int result = Z_OK;
    do {
      stream_.next_out = reinterpret_cast<Bytef*>(block_at(out, used));
      stream_.avail_out = static_cast<uInt>(out.size() - used);
      result = ::deflate(&stream_, flush);
      used = out.size() - stream_.avail_out;
    } while (stream_.avail_out == 0 && result == Z_OK);
    out.resize(used);
    return step == EncodeStep::kEnd ? result == Z_STREAM_END
                                    : result == Z_OK || result == Z_BUF_ERROR;
  }
  bool reset() override { return ::deflateReset(&stream_) == Z_OK; }

  static constexpr std::size_t kBytes = 280 * 1024;  // (1 << 17) + (1 << 17), and its tables

 private:
  static constexpr int kLevel = 1;
  static constexpr int kWindowBits = 15;
  static constexpr int kGzipFormat = 16;
  static constexpr int kMemoryLevel = 8;
  static constexpr std::size_t kInputMax = 1u << 30;
  z_stream stream_{};
  bool good_ = false;
};

class Brotli final : public Encoder {
 public:
  Brotli() { static_cast<void>(reset()); }
  ~Brotli() override { ::BrotliEncoderDestroyInstance(state_); }
  Brotli(const Brotli&) = delete;
  Brotli& operator=(const Brotli&) = delete;
  bool good() const { return state_ != nullptr; }

  bool encode(std::string_view input, EncodeStep step, std::string& out) override {
    const BrotliEncoderOperation operation = step == EncodeStep::kEnd ? BROTLI_OPERATION_FINISH
                                             : step == EncodeStep::kFlush
                                                 ? BROTLI_OPERATION_FLUSH
                                                 : BROTLI_OPERATION_PROCESS;
    const auto* next = reinterpret_cast<const std::uint8_t*>(input.data());
    std::size_t left = input.size();
    do {
      std::size_t no_room = 0;
      if (::BrotliEncoderCompressStream(state_, operation, &left, &next, &no_room, nullptr,
                                        nullptr) == BROTLI_FALSE) {
        return false;
      }
      // Its own buffer is as good as ours: no block too much.
      std::size_t size = 0;
      const std::uint8_t* const bytes = ::BrotliEncoderTakeOutput(state_, &size);
      out.append(reinterpret_cast<const char*>(bytes), size);
    } while (left > 0 || ::BrotliEncoderHasMoreOutput(state_) != BROTLI_FALSE);
    return step != EncodeStep::kEnd || ::BrotliEncoderIsFinished(state_) != BROTLI_FALSE;
  }
  bool reset() override {
    ::BrotliEncoderDestroyInstance(state_);
    state_ = ::BrotliEncoderCreateInstance(nullptr, nullptr, nullptr);
    if (state_ == nullptr) {
      return false;
    }
    ::BrotliEncoderSetParameter(state_, BROTLI_PARAM_QUALITY, kQuality);
    ::BrotliEncoderSetParameter(state_, BROTLI_PARAM_LGWIN, kWindowBits);
    return true;
  }

  static constexpr std::size_t kBytes = 1536 * 1024;

 private:
  static constexpr std::uint32_t kQuality = 4;
  static constexpr std::uint32_t kWindowBits = 18;
  BrotliEncoderState* state_ = nullptr;
};

class Zstd final : public Encoder {
 public:
  Zstd() : context_(::ZSTD_createCCtx()) {
    if (context_ != nullptr) {
      ::ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, kLevel);
      ::ZSTD_CCtx_setParameter(context_, ZSTD_c_windowLog, kWindowBits);
    }
  }
  ~Zstd() override { ::ZSTD_freeCCtx(context_); }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;
  bool good() const { return context_ != nullptr; }

  bool encode(std::string_view input, EncodeStep step, std::string& out) override {
    const ZSTD_EndDirective directive = step == EncodeStep::kEnd     ? ZSTD_e_end
                                        : step == EncodeStep::kFlush ? ZSTD_e_flush
                                                                     : ZSTD_e_continue;
    ZSTD_inBuffer in{.src = input.data(), .size = input.size(), .pos = 0};
    std::size_t used = out.size();
    std::size_t left = 0;
    bool done = false;
    while (!done) {
      char* const block = block_at(out, used);
      ZSTD_outBuffer to{.dst = block, .size = out.size() - used, .pos = 0};
      left = ::ZSTD_compressStream2(context_, &to, &in, directive);
      if (::ZSTD_isError(left) != 0) {
        out.resize(used);
        return false;
      }
      used += to.pos;
      done = in.pos == in.size && (step == EncodeStep::kMore || left == 0);
    }
    out.resize(used);
    return true;
  }
  bool reset() override {
    return ::ZSTD_isError(::ZSTD_CCtx_reset(context_, ZSTD_reset_session_only)) == 0;
  }

  static constexpr std::size_t kBytes = 1024 * 1024;

 private:
  static constexpr int kLevel = 1;
  static constexpr int kWindowBits = 17;
  ZSTD_CCtx* context_;
};

template <class One>
std::unique_ptr<Encoder> make() {
  auto encoder = std::make_unique<One>();
  return encoder->good() ? std::move(encoder) : nullptr;
}

}  // namespace

std::unique_ptr<Encoder> make_encoder(Coding coding) {
  switch (coding) {
    case Coding::kGzip:
      return make<Gzip>();
    case Coding::kBrotli:
      return make<Brotli>();
    case Coding::kZstd:
      return make<Zstd>();
    case Coding::kIdentity:
      break;
  }
  return nullptr;
}

std::size_t encoder_bytes(Coding coding) noexcept {
  constexpr std::array<std::size_t, 4> kBytes = {0, Gzip::kBytes, Brotli::kBytes, Zstd::kBytes};
  return kBytes[static_cast<std::size_t>(coding)];
}

}  // namespace mik::http
