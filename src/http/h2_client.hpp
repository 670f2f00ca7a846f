// For tests: an HTTP/2 client over nghttp2, and what it saw of each stream. Confined to the test's
// thread.
#pragma once

#include <nghttp2/nghttp2.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "http/server_rig.hpp"

namespace mik::http::testing {

// A client: what it saw of each stream.
class H2Client {
 public:
  struct Stream {
    std::string head;  // "name=value;"
    std::string body;
    std::string trailers;
    std::string upload;
    std::size_t uploaded = 0;
    bool hold = false;  // there is more to upload than `upload`
    int heads = 0;
    bool ended = false;
    bool closed = false;
    std::uint32_t error = 0;
  };

  explicit H2Client(std::unique_ptr<Client> socket, bool open_windows = true)
      : socket_(std::move(socket)) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_option* options = nullptr;
    nghttp2_option_new(&options);
    nghttp2_option_set_no_auto_window_update(options, open_windows ? 0 : 1);
    nghttp2_option_set_no_http_messaging(options, 1);  // so that bad requests can be sent
    nghttp2_session_client_new2(&session_, callbacks, this, options);
    nghttp2_option_del(options);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
  }
  ~H2Client() { nghttp2_session_del(session_); }
  H2Client(const H2Client&) = delete;
  H2Client& operator=(const H2Client&) = delete;

  using Fields = std::vector<std::pair<std::string, std::string>>;
  static Fields get(std::string path = "/") {
    return {
        {":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", std::move(path)}};
  }
  static Fields post(Fields more = {}) {
    Fields fields = {{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}};
    fields.insert(fields.end(), more.begin(), more.end());
    return fields;
  }

  std::int32_t ask(const Fields& fields, const char* upload = nullptr, bool hold = false) {
    std::vector<nghttp2_nv> names;
    for (const auto& [name, value] : fields) {
      names.push_back({.name = reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                       .value = reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())),
                       .namelen = name.size(),
                       .valuelen = value.size(),
                       .flags = NGHTTP2_NV_FLAG_NONE});
    }
    const nghttp2_data_provider provider{.source = {.ptr = this}, .read_callback = on_read};
    const std::int32_t id =
        nghttp2_submit_request(session_, nullptr, names.data(), names.size(),
                               upload == nullptr ? nullptr : &provider, nullptr);
    streams[id].upload = upload == nullptr ? "" : upload;
    streams[id].hold = hold;
    return id;
  }
  void more(std::int32_t id, std::string_view bytes, bool hold) {
    streams[id].upload.append(bytes);
    streams[id].hold = hold;
    nghttp2_session_resume_data(session_, id);
  }
  void reset(std::int32_t id) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
  }
  void ping() { nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr); }

  // Moves what can be moved.
  void turn() {
    const std::uint8_t* bytes = nullptr;
    while (out_.empty()) {
      const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
      if (count <= 0) {
        break;
      }
      out_.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
      out_.erase(0, socket_->send(out_));
    }
    out_.erase(0, socket_->send(out_));
    socket_->take();
    const std::string got = socket_->take_text();
    received += got.size();
    nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(got.data()),
                             got.size());
  }

  std::map<std::int32_t, Stream> streams;
  std::size_t received = 0;
  int goaways = 0;
  std::uint32_t goaway_error = 0;
  Client& socket() { return *socket_; }
  nghttp2_session* session() { return session_; }

 private:
  static H2Client& of(void* context) { return *static_cast<H2Client*>(context); }
  static int on_begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* context) {
    ++of(context).streams[frame->hd.stream_id].heads;
    return 0;
  }
  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_bytes, const std::uint8_t* value, std::size_t value_bytes,
                       std::uint8_t, void* context) {
    Stream& stream = of(context).streams[frame->hd.stream_id];
    std::string& text =
        stream.body.empty() && stream.trailers.empty() && !has(stream.head, ":status=2")
            ? stream.head
            : (frame->headers.cat == NGHTTP2_HCAT_RESPONSE ||
                       (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0
                   ? stream.head
                   : stream.trailers);
    text.append(reinterpret_cast<const char*>(name), name_bytes).append("=");
    text.append(reinterpret_cast<const char*>(value), value_bytes).append(";");
    return 0;
  }
  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                     std::size_t bytes, void* context) {
    of(context).streams[id].body.append(reinterpret_cast<const char*>(data), bytes);
    return 0;
  }
  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* context) {
    if (frame->hd.type == NGHTTP2_GOAWAY) {
      ++of(context).goaways;
      of(context).goaway_error = frame->goaway.error_code;
    } else if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
               (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      of(context).streams[frame->hd.stream_id].ended = true;
    }
    return 0;
  }
  static int on_close(nghttp2_session*, std::int32_t id, std::uint32_t error, void* context) {
    of(context).streams[id].closed = true;
    of(context).streams[id].error = error;
    return 0;
  }
  static ssize_t on_read(nghttp2_session*, std::int32_t id, std::uint8_t* buffer, std::size_t bytes,
                         std::uint32_t* flags, nghttp2_data_source* source, void*) {
    Stream& stream = static_cast<H2Client*>(source->ptr)->streams[id];
    const std::size_t part = std::min(bytes, stream.upload.size() - stream.uploaded);
    stream.upload.copy(reinterpret_cast<char*>(buffer), part, stream.uploaded);
    stream.uploaded += part;
    if (stream.uploaded == stream.upload.size() && !stream.hold) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (part == 0) {
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(part);
  }

  std::unique_ptr<Client> socket_;
  nghttp2_session* session_ = nullptr;
  std::string out_;
};

}  // namespace mik::http::testing
