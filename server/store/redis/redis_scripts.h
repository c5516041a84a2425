#ifndef NORMD_SERVER_STORE_REDIS_REDIS_SCRIPTS_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_SCRIPTS_H_

// What Redis carries out as a whole. Each may be sent again when no answer came: it finds what it did, and says the
// same.
namespace normd::store {

// Carries out a change, if the server that sends it has sent all before and the change builds on what is stored.
// KEYS: journals, changes, changed, those of the checks, those of the commands. ARGV: the server, what its journal says
// now, what it is to say, the number of checks; of each check its kind, an argument and what it wants: "exists" ("+" or
// "-"), "field" (the argument's value, or "-"), "has" (whether the argument is a field, "+" or "-"), "last" (the
// highest score, or "0"); the number of things that change, these; of each command the number of its arguments, its
// name, its arguments but the key. Answers: {"ok", number of the change, "0" if it was there already}, {"journal", what
// it says}, {"conflict", for each check that fails its number and what is stored}. Its first write is one that a
// replica and a Redis without memory refuse.
inline constexpr char kWriteScript[] = R"lua(
local journal = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if journal == ARGV[3] then return {'ok', '0'} end
if journal ~= ARGV[2] then return {'journal', journal} end
local num_checks = tonumber(ARGV[4])
local conflicts = {'conflict'}
local a = 5
for i = 1, num_checks do
  local key, kind, want = KEYS[3 + i], ARGV[a], ARGV[a + 2]
  local stored
  if kind == 'exists' then
    stored = redis.call('EXISTS', key) == 1 and '+' or '-'
  elseif kind == 'field' then
    stored = redis.call('HGET', key, ARGV[a + 1]) or '-'
  elseif kind == 'has' then
    stored = redis.call('HEXISTS', key, ARGV[a + 1]) == 1 and '+' or '-'
  else
    stored = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2] or '0'
  end
  if stored ~= want then
    conflicts[#conflicts + 1] = tostring(i)
    conflicts[#conflicts + 1] = stored
  end
  a = a + 3
end
if #conflicts > 1 then return conflicts end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
local number = redis.call('INCR', KEYS[2])
local num_changed = tonumber(ARGV[a])
for i = 1, num_changed do redis.call('ZADD', KEYS[3], number, ARGV[a + i]) end
a = a + 1 + num_changed
local k = 3 + num_checks
while a <= #ARGV do
  local size = tonumber(ARGV[a])
  k = k + 1
  redis.call(ARGV[a + 1], KEYS[k], unpack(ARGV, a + 2, a + 1 + size))
  a = a + 2 + size
end
return {'ok', tostring(number)}
)lua";

// What has changed since a change, and where the layers are by now. The first line makes a replica refuse, which may
// have old answers.
// KEYS: changes, changed, journals, servers. ARGV: number of the change, the server, what the keys of layers begin
// with, what those of records begin with, what "servers" is to say of the server or "". Answers: {number of the latest
// change, the server's journal, for each thing that has changed what it is, the layer's VERSION:CONTENT_HASH or "-",
// the sequence of its latest record or "0"}.
inline constexpr char kChangesScript[] = R"lua(
redis.call('SETRANGE', KEYS[1], 0, '')
if ARGV[5] ~= '' then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[4], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[5])
end
local number = redis.call('GET', KEYS[1]) or '0'
local answer = {number, redis.call('HGET', KEYS[3], ARGV[2]) or ''}
if tonumber(number) <= tonumber(ARGV[1]) then return answer end
for _, uid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf')) do
  answer[#answer + 1] = uid
  answer[#answer + 1] = redis.call('HGET', ARGV[3] .. uid, 'v') or '-'
  answer[#answer + 1] = redis.call('ZREVRANGE', ARGV[4] .. uid, 0, 0, 'WITHSCORES')[2] or '0'
end
return answer
)lua";

// Lets a server in, and forgets those that are long gone. Of a store of format 1 its only server becomes one that may
// not write any more.
// KEYS: format, owner, lease, journals, servers. ARGV: the server, what its journal says, who it is, after how many
// milliseconds others are forgotten, the formats that may be.
// Answers: {"ok", the format, "" if there is none}, {"held", by whom, milliseconds left}, {"format", the one that is
// stored}.
inline constexpr char kJoinScript[] = R"lua(
redis.call('SETRANGE', KEYS[1], 0, '')
local format = redis.call('GET', KEYS[1]) or ''
if format ~= '' and format ~= ARGV[5] and format ~= ARGV[6] then return {'format', format} end
if format ~= ARGV[6] then
  local lease = redis.call('GET', KEYS[3])
  if lease then return {'held', lease, tostring(redis.call('PTTL', KEYS[3]))} end
  local owner = redis.call('GET', KEYS[2]) or '0:'
  if not string.find(owner, 'shared', 1, true) then
    redis.call('SET', KEYS[2], (tonumber(string.match(owner, '^%d+')) + 1) .. ':shared')
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, server in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[4]))) do
  redis.call('HDEL', KEYS[4], string.match(server, '^%S+'))
  redis.call('ZREM', KEYS[5], server)
end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[5], now, ARGV[1] .. ' ' .. ARGV[3])
return {'ok', format}
)lua";

// Enters the name of a layer of a store of format 1, unless the layer has gone.
// KEYS: names, the layer. ARGV: the name, the uid.
inline constexpr char kNameScript[] = R"lua(
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return {'ok'}
)lua";

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_SCRIPTS_H_
