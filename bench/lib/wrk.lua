-- What wrk found, as one line of JSON in place of its rounded text. With BENCH_BODY in the environment each request
-- is a POST with a body of that many bytes; with BENCH_SPREAD the number of a module is put behind the path, in turn; with BENCH_ACCEPT Accept-Encoding is sent.
local size = tonumber(os.getenv("BENCH_BODY") or "0")
if size > 0 then
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/octet-stream"
  wrk.body = string.rep("0123456789abcdef", size / 16)
end

local accept = os.getenv("BENCH_ACCEPT") or ""
if accept ~= "" then
  wrk.headers["Accept-Encoding"] = accept
end

local spread = tonumber(os.getenv("BENCH_SPREAD") or "0")
if spread > 0 then
  local requests = {}
  local at = 0
  function init(args)
    for i = 0, spread - 1 do
      requests[i] = wrk.format("GET", wrk.path .. i .. "/")
    end
  end
  function request()
    at = (at + 1) % spread
    return requests[at]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"bytes":%d,"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,"max_us":%.1f,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
