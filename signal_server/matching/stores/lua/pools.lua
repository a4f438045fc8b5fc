-- Counts of each pool of the shard: { pool, waiting, offered, pairs }, ... KEYS as in rules.lua, which it does
-- without: to look on changes nothing.
local rows, row_of = {}, {}

local function count(pool, column)
  local row = row_of[pool]
  if not row then
    row = { pool, 0, 0, 0 }
    row_of[pool], rows[#rows + 1] = row, row
  end
  row[column] = row[column] + 1
end

for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[7], '[p ', '(p!')) do
  count(member:match('^p ([^ ]+)'), 2)
end
for _, ticket in ipairs(redis.call('HKEYS', KEYS[4])) do
  local packed = ticket:sub(-2) ~= ' s' and redis.call('HGET', KEYS[4], ticket)
  if packed then
    local pool, _, _, _, _, _, nonce = unpack(cmsgpack.unpack(packed))
    if nonce ~= '' then
      count(pool, 3)
    end
  end
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do
  count(member:match('^[^ ]+'), 4)
end
return rows
