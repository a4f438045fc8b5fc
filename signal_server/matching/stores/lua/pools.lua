
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

  local waits = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[p ', '(p!')) do
    local pool, ticket = member:match('^p ([^ ]+).* ([^ ]+)$')
    count(pool, 2)
    waits[ticket] = true
  end
  for _, member in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[o ', '(o!')) do
    local ticket = member:match('[^ ]+$')
    local offer = not waits[ticket] and offer_of(ticket)
    if offer then
      count(offer.pool, 3)
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', PAIRS, 0, -1)) do
    count(member:match('^[^ ]+'), 4)
  end
  return rows
end
