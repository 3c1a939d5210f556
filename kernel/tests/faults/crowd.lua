-- Reads, and a write for every fifth request, by several callers; tells each status as JSON.
local tokens, counts, number, sent = {}, {}, 0, 0
local path = os.getenv("PEELINGS")
for token in os.getenv("TOKENS"):gmatch("[^,]+") do
  table.insert(tokens, token)
end
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function request()
  sent = sent + 1
  local headers = { Authorization = tokens[sent % #tokens + 1] }
  if sent % 5 > 0 then
    return wrk.format("GET", path .. "?limit=5", headers)
  end
  headers["Content-Type"] = "application/json"
  return wrk.format("POST", path, headers, '{"title": "Soup"}')
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
