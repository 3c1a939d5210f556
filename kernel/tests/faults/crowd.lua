-- One request again and again, by several callers; tells how often each status came, as JSON.
local tokens, counts, sent = {}, {}, 0
local method, target = os.getenv("METHOD"), os.getenv("TARGET")
for token in os.getenv("TOKENS"):gmatch("[^,]+") do
  table.insert(tokens, token)
end
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function request()
  sent = sent + 1
  local caller = sent % #tokens + 1
  local headers = { Authorization = tokens[caller], ["X-Forwarded-For"] = "198.51.100." .. caller }
  if method == "GET" then
    return wrk.format(method, target, headers)
  end
  headers["Content-Type"] = "application/json"
  return wrk.format(method, target, headers, '{"title": "Soup"}')
end

told = ""
function response(status, headers)
  local again = headers["retry-after"] or headers["Retry-After"]
  local name = tostring(status) .. (again and " Retry-After" or "")
  counts[name] = (counts[name] or 0) + 1
  local parts = {}
  for key, count in pairs(counts) do
    table.insert(parts, '"' .. key .. '": ' .. count)
  end
  told = table.concat(parts, ", ")
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format('{"statuses": {%s}, "slowest_ms": %.1f, "p99_ms": %.1f, "lost": %d, "seconds": %.3f}',
    threads[1]:get("told"), latency.max / 1000, latency:percentile(99) / 1000, lost, summary.duration / 1e6))
end
