
-- Counts of each pool of the shard: { pool, waiting, offered, pairs }, ...
function views.pools()
  local rows, row_of = {}, {}

  local function count(pool, column)
    local row = row_of[pool]
    if not row then
      row = { pool, 0, 0, 0 }
      row_of[pool], rows[#rows + 1] = row, row
    end
    row[column] = row[column] + 1
  end

  for _, member in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[p ', '(p!')) do
    count(member:match('^p ([^ ]+)'), 2)
  end
  for _, ticket in ipairs(redis.call('HKEYS', OFFERS)) do
    local offer = ticket:sub(-2) ~= ' s' and offer_of(ticket)
    if offer and offer.nonce ~= '' then
      count(offer.pool, 3)
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', PAIRS, 0, -1)) do
    count(member:match('^[^ ]+'), 4)
  end
  return rows
end
