#ifndef NORMD_SERVER_STORE_REDIS_REDIS_SCRIPTS_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_SCRIPTS_H_

// What Redis carries out as a whole. Each may be sent again when no answer came: it finds what it did, and says the
// same.
namespace normd::store {

// Carries out a change, if the server that sends it owns the store and the change builds on what is stored.
// KEYS: owner, journal, those of the checks, those of the commands. ARGV: the owner's token, what the journal says now,
// what it is to say, the number of checks; of each check what must stand in field "v" of its key, or "+" (the key
// exists) or "-" (it does not); of each command the number of its arguments, its name, its arguments but the key.
// Answers: {"ok"}, {"owner", token}, {"journal", what it says}, {"conflict", number of the check, what is stored}.
// Its first write is one that a replica and a Redis without memory refuse.
inline constexpr char kWriteScript[] = R"lua(
local journal = redis.call('GET', KEYS[2]) or ''
if journal == ARGV[3] then return {'ok'} end
local owner = redis.call('GET', KEYS[1]) or ''
if owner ~= ARGV[1] then return {'owner', owner} end
if journal ~= ARGV[2] then return {'journal', journal} end
local num_checks = tonumber(ARGV[4])
for i = 1, num_checks do
  local key, want = KEYS[2 + i], ARGV[4 + i]
  local stored = want
  if want == '+' or want == '-' then
    if redis.call('EXISTS', key) == 1 then stored = '+' else stored = '-' end
  else
    stored = redis.call('HGET', key, 'v') or '-'
  end
  if stored ~= want then return {'conflict', tostring(i), stored} end
end
redis.call('SET', KEYS[2], ARGV[3])
local k, a = 2 + num_checks, 5 + num_checks
while a <= #ARGV do
  local size = tonumber(ARGV[a])
  k = k + 1
  redis.call(ARGV[a + 1], KEYS[k], unpack(ARGV, a + 2, a + 1 + size))
  a = a + 2 + size
end
return {'ok'}
)lua";

// Makes a server the owner. The first line makes a replica refuse, which may have old answers.
// KEYS: owner, lease, format. ARGV: an id, who it is, milliseconds, the format.
// Answers: {"ok", the owner's token}, {"held", by whom, milliseconds left}, {"format", the one that is stored}.
inline constexpr char kAcquireScript[] = R"lua(
redis.call('SETRANGE', KEYS[1], 0, '')
local owner = redis.call('GET', KEYS[1]) or '0:'
local lease = redis.call('GET', KEYS[2])
if lease then
  if string.find(owner, ARGV[1], 1, true) then return {'ok', owner} end
  return {'held', lease, tostring(redis.call('PTTL', KEYS[2]))}
end
local format = redis.call('GET', KEYS[3])
if format and format ~= ARGV[4] then return {'format', format} end
local token = (tonumber(string.match(owner, '^%d+')) + 1) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], token)
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[3], ARGV[4])
return {'ok', token}
)lua";

// Keeps the lease of an owner, who becomes it again if a failover has forgotten that he was: what is stored then is of
// an earlier one. KEYS: owner, lease. ARGV: the owner's token, who it is, milliseconds.
// Answers: {"ok"}, {"lost", who has the lease}.
inline constexpr char kRenewScript[] = R"lua(
redis.call('SETRANGE', KEYS[1], 0, '')
local owner = redis.call('GET', KEYS[1]) or '0:'
if owner ~= ARGV[1] and tonumber(string.match(owner, '^%d+')) >= tonumber(string.match(ARGV[1], '^%d+')) then
  return {'lost', redis.call('GET', KEYS[2]) or owner}
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {'ok'}
)lua";

// Gives the lease back. KEYS: owner, lease. ARGV: the owner's token.
inline constexpr char kReleaseScript[] = R"lua(
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return {'ok'}
)lua";

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_SCRIPTS_H_
