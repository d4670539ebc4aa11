%%% @doc Signed messages, and rate limits for applications that check them before the gateway does.
%%%
%%% {@link sign/1} adds two keys to a map: `signed_at', in Unix seconds, and `signature', the base64
%%% of an HMAC-SHA256 (RFC 2104) over the canonical form of the map without `signature' (see
%%% `esdb_gater_canonical'). Equal maps have equal signatures on every node and release of OTP.
%%%
%%% The secret is the value of `ESDB_GATER_SECRET' in the environment, or else that of `{security,
%%% [{hmac_secret, Secret}]}' of the application `erl_esdb_gater', or else a random one, which is
%%% reported by a warning. {@link set_secret/1} changes it, on this node and at the gateway to which
%%% this node is linked; the previous secret still verifies for as long as messages are valid
%%% (`message_ttl_seconds', 300).
%%%
%%% Nothing here requires a running application or a gateway. The library `gater_nif' does the work
%%% where it is loaded; without it an implementation in Erlang returns the same bytes.
%%% @end
-module(esdb_pubsub_security).

-include_lib("kernel/include/logger.hrl").

-export([sign/1, sign/2, verify/1, verify/2, set_secret/1, get_secret/0,
         check_rate/2, check_rate/3]).
-export([configure/1, is_generated/0, adopt/1, format_error/2]).

-export_type([secret/0, reason/0]).

-type secret() :: binary() | string().
%% A secret is not empty. A string stands for its UTF-8 encoding.

-type reason() :: missing_signature | missing_timestamp | invalid_timestamp | message_expired
                | invalid_signature | badarg.

-record(ring, {secret :: binary(),
               %% The previous secret, and the last second in which it verifies, on the monotonic
               %% clock: a clock that is set right must not make it verify for longer.
               previous = none :: none | {binary(), non_neg_integer()},
               ttl_seconds :: pos_integer(),
               native :: esdb_gater_nif:ring() | none}).

-define(RING, {?MODULE, ring}).
-define(GENERATED, {?MODULE, generated}).
-define(TURN, esdb_gater_security_turn).
-define(DEFAULT_TTL_SECONDS, 300).
%% The greatest number of seconds by which the time of a message may be in the future.
-define(MAX_AHEAD_SECONDS, 5).
%% The length of a signature: base64 of 32 bytes, padded.
-define(SIGNATURE_BYTES, 44).
%% Encoded messages of more bytes are signed and verified on a dirty scheduler: these are the ones that
%% the faster functions do not take, such as deeply nested maps, of which a byte may take 0.4 us.
-define(LARGE_BYTES, 1024).
%% A Unix second.
-define(NEVER, (1 bsl 62)).

%% @doc Signs a map with the secret of this node. Existing values of `signed_at' and `signature' are
%% replaced. The result is `{error, badarg}' for a term that is not a map, and `{error, too_large}'
%% or `{error, too_deep}' for a message that no gateway accepts, as for {@link
%% esdb_channel_server:publish/3}.
%%
%% A message with a local fun (`fun() -> ok end') raises `badarg': the bytes of such a fun name the
%% process and the node that write it, so no other node could verify the signature. Send an external
%% fun (`fun module:function/1') or a description of the task instead.
-spec sign(Message :: map()) -> map() | {error, badarg | esdb_gater_bounds:too_much()}.
sign(Message) when is_map(Message) ->
    sign_with(Message, ring());
sign(_) ->
    {error, badarg}.

%% @doc Signs a map with the given secret.
-spec sign(Message :: map(), secret()) ->
          map() | {error, badarg | esdb_gater_bounds:too_much()}.
sign(Message, Secret) when is_map(Message) ->
    case bytes(Secret) of
        {ok, Bytes} -> sign_with(Message, make_ring(Bytes, none, ?DEFAULT_TTL_SECONDS));
        error -> {error, badarg}
    end;
sign(_, _) ->
    {error, badarg}.

%% @doc Verifies a signed map with the secret of this node and, for a limited time, the previous
%% one.
%%
%% `message_expired' is checked before the signature: the message is older than
%% `message_ttl_seconds', or more than 5 seconds in the future.
-spec verify(SignedMessage :: term()) -> ok | {error, reason()}.
verify(Message) when is_map(Message) ->
    verify_with(Message, ring());
verify(_) ->
    {error, badarg}.

%% @doc Verifies a signed map with the given secret.
-spec verify(SignedMessage :: term(), secret()) -> ok | {error, reason()}.
verify(Message, Secret) when is_map(Message) ->
    case bytes(Secret) of
        {ok, Bytes} -> verify_with(Message, make_ring(Bytes, none, ttl_seconds()));
        error -> {error, badarg}
    end;
verify(_, _) ->
    {error, badarg}.

%% @doc Changes the secret on this node, and at the gateway to which it is linked, if there is one.
-spec set_secret(secret()) -> ok | {error, badarg}.
set_secret(Secret) ->
    case bytes(Secret) of
        {ok, Bytes} ->
            ok = alone(fun() -> given(), rotate(Bytes, ttl_seconds()) end),
            esdb_gater_link:push_secret();
        error ->
            {error, badarg}
    end.

%% @doc Returns the secret of this node.
-spec get_secret() -> binary().
get_secret() ->
    #ring{secret = Secret} = ring(),
    Secret.

%% @doc Takes a token from the bucket that this node keeps for a channel and topic, at the
%% configured rate of the channel. The gateway keeps its own buckets.
-spec check_rate(Channel :: atom(), Topic :: binary()) ->
          ok | {error, rate_limited | {bad_topic, empty | too_long | not_binary}
                     | {unknown_channel, term()}}.
check_rate(Channel, Topic) ->
    esdb_gater_rates:check(Channel, Topic).

%% @doc Does the same at the given rate: `MaxRate' messages per second, and as many at once after a
%% pause. Every channel has separate buckets for every rate at which it is checked.
-spec check_rate(Channel :: term(), Topic :: binary(), MaxRate :: pos_integer() | infinity) ->
          ok | {error, rate_limited | badarg | {bad_topic, empty | too_long | not_binary}}.
check_rate(Channel, Topic, MaxRate)
  when MaxRate =:= infinity; is_integer(MaxRate), MaxRate > 0 ->
    esdb_gater_rates:check(Channel, Topic, MaxRate);
check_rate(_Channel, _Topic, _MaxRate) ->
    {error, badarg}.

%% @private
%% @doc Applies a checked configuration when the application starts. A secret that was set by a call
%% is kept unless a secret is configured.
-spec configure(map()) -> ok.
configure(Config) ->
    Security = maps:get(security, Config, #{}),
    Ttl = maps:get(message_ttl_seconds, Security, ?DEFAULT_TTL_SECONDS),
    _ = case configured_secret(Security) of
            {ok, Secret} ->
                alone(fun() -> given(), rotate(Secret, Ttl) end);
            none ->
                _ = said(alone(fun() -> ring_alone(#{}, Ttl) end)),
                alone(fun() ->
                          #ring{secret = Kept} = persistent_term:get(?RING),
                          rotate(Kept, Ttl)
                      end)
        end,
    esdb_gater_rates:configure(esdb_gater_config:channels(Config)).

%% @private
%% @doc Returns whether this node signs with a random secret, because none was given.
-spec is_generated() -> boolean().
is_generated() ->
    _ = ring(),
    persistent_term:get(?GENERATED, false).

%% @private
%% @doc Replaces a random secret by the secret of a node with which this node shares a gateway.
-spec adopt(binary()) -> ok.
adopt(Secret) ->
    alone(fun() ->
              case persistent_term:get(?GENERATED, false) of
                  true -> rotate(Secret, ttl_seconds());
                  false -> ok
              end
          end).

given() ->
    _ = persistent_term:erase(?GENERATED),
    ok.

%%% Signatures

sign_with(Message, Ring) ->
    case esdb_gater_bounds:message(Message) of
        ok ->
            Now = os:system_time(second),
            Message#{signed_at => Now, signature => signature(Message, Ring, Now)};
        {error, _} = Error ->
            Error
    end.

signature(Message, #ring{native = none, secret = Secret}, Now) ->
    _ = esdb_gater_canonical:has_local_fun(maps:without([signature, signed_at], Message))
        andalso local_fun(Message),
    mac(Secret, esdb_gater_canonical:bytes(Message#{signed_at => Now}));
signature(Message, #ring{native = Native} = Ring, Now) ->
    try esdb_gater_nif:sign_map(Message, Native, Now) of
        unsupported -> signature_of_encoded(Message, Ring, Now);
        Signature -> Signature
    catch
        error:_ -> ok = renew(Ring), signature(Message, Ring#ring{native = none}, Now)
    end.

signature_of_encoded(Message, #ring{native = Native} = Ring, Now) ->
    Encoded = term_to_binary(Message, [{minor_version, 2}]),
    try
        case byte_size(Encoded) of
            Size when Size =< ?LARGE_BYTES -> esdb_gater_nif:sign(Encoded, Native, Now);
            _ -> esdb_gater_nif:sign_dirty(Encoded, Native, Now)
        end
    of
        Signature when is_binary(Signature) -> Signature;
        _ -> signature(Message, Ring#ring{native = none}, Now)
    catch
        error:_ -> signature(Message, Ring#ring{native = none}, Now)
    end.

verify_with(Message, #ring{native = none} = Ring) ->
    judge(Message, Ring, os:system_time(second));
verify_with(Message, #ring{native = Native, ttl_seconds = Ttl} = Ring) ->
    Now = os:system_time(second),
    try esdb_gater_nif:verify_map(Message, Native, Now, Ttl) of
        ok -> ok;
        unsupported -> verify_encoded(Message, Ring, Now);
        Reason -> {error, Reason}
    catch
        error:_ -> ok = renew(Ring), judge(Message, Ring, Now)
    end.

verify_encoded(Message, #ring{native = Native, ttl_seconds = Ttl} = Ring, Now) ->
    Encoded = term_to_binary(Message, [{minor_version, 2}]),
    try
        case byte_size(Encoded) of
            Size when Size =< ?LARGE_BYTES -> esdb_gater_nif:verify(Encoded, Native, Now, Ttl);
            _ -> esdb_gater_nif:verify_dirty(Encoded, Native, Now, Ttl)
        end
    of
        ok -> ok;
        unsupported -> judge(Message, Ring, Now);
        Reason -> {error, Reason}
    catch
        error:_ -> judge(Message, Ring, Now)
    end.

judge(#{signature := Signature, signed_at := At} = Message, #ring{ttl_seconds = Ttl} = Ring, Now)
  when is_integer(At) ->
    if
        Now - At > Ttl; At - Now > ?MAX_AHEAD_SECONDS ->
            {error, message_expired};
        is_binary(Signature), byte_size(Signature) =:= ?SIGNATURE_BYTES ->
            Secrets = secrets(Ring),
            Matches = fun(Bytes) ->
                              lists:any(fun(Secret) ->
                                            crypto:hash_equals(mac(Secret, Bytes), Signature)
                                        end, Secrets)
                      end,
            Valid = lists:any(
                      fun(Atoms) ->
                              Bytes = esdb_gater_canonical:bytes(Message, Atoms),
                              Matches(Bytes)
                                  orelse lists:any(Matches, esdb_gater_canonical:other_ports(Bytes))
                      end, [utf8, latin1]),
            case Valid of
                true -> ok;
                false -> {error, invalid_signature}
            end;
        true ->
            {error, invalid_signature}
    end;
judge(#{signature := _, signed_at := _}, _Ring, _Now) ->
    {error, invalid_timestamp};
judge(#{signature := _}, _Ring, _Now) ->
    {error, missing_timestamp};
judge(#{}, _Ring, _Now) ->
    {error, missing_signature}.

-spec local_fun(map()) -> no_return().
local_fun(Message) ->
    erlang:error(badarg, [Message], [{error_info, #{module => ?MODULE, cause => local_fun}}]).

%% @private
%% @doc Returns the text that a shell or a crash report shows for a `badarg' that is raised here.
-spec format_error(term(), [term()]) -> #{pos_integer() => string()}.
format_error(badarg, [{_Module, _Function, _Arguments, Info} | _]) ->
    case proplists:get_value(error_info, Info, #{}) of
        #{cause := local_fun} ->
            #{1 => "there is a local fun in it, whose signature nobody else could verify"};
        #{} ->
            #{}
    end.

secrets(#ring{secret = Secret, previous = {Previous, _Until}}) -> [Secret, Previous];
secrets(#ring{secret = Secret}) -> [Secret].

mac(Secret, Bytes) ->
    base64:encode(crypto:mac(hmac, sha256, Secret, Bytes)).

%%% Secrets

ring() ->
    case persistent_term:get(?RING, none) of
        none ->
            said(alone(fun() ->
                     case persistent_term:get(?RING, none) of
                         none -> Security = environment(), ring_alone(Security, ttl_of(Security));
                         Ring -> {kept, Ring}
                     end
                 end));
        #ring{previous = none} = Ring ->
            Ring;
        #ring{previous = {_, Until}} = Ring ->
            case erlang:monotonic_time(second) =< Until of
                true -> Ring;
                false -> said(alone(fun() -> {kept, without_previous(Ring)} end))
            end
    end.

%% Another process may have changed it.
without_previous(Ring) ->
    case persistent_term:get(?RING, none) of
        Ring -> keep(make_ring(Ring#ring.secret, none, Ring#ring.ttl_seconds));
        Other -> Other
    end.

%% A separate process logs, since the first line that a node logs takes longer than many signatures.
said({generated, Ring}) ->
    _ = spawn(fun() ->
            ?LOG_WARNING("erl_esdb_gater: no secret is configured (security.hmac_secret or "
                         "ESDB_GATER_SECRET); messages are signed with a random one, which only "
                         "nodes know that share an embedded gateway", [],
                         #{application => erl_esdb_gater})
        end),
    Ring;
said({kept, Ring}) ->
    Ring.

ttl_seconds() ->
    case persistent_term:get(?RING, none) of
        none -> ttl_of(environment());
        #ring{ttl_seconds = Ttl} -> Ttl
    end.

ring_alone(Security, Ttl) ->
    case persistent_term:get(?RING, none) of
        none ->
            case configured_secret(Security) of
                {ok, Secret} ->
                    {kept, keep(make_ring(Secret, none, Ttl))};
                none ->
                    ok = persistent_term:put(?GENERATED, true),
                    {generated, keep(make_ring(crypto:strong_rand_bytes(32), none, Ttl))}
            end;
        Ring ->
            {kept, Ring}
    end.

rotate(Secret, Ttl) ->
    _ = case persistent_term:get(?RING, none) of
            none ->
                keep(make_ring(Secret, none, Ttl));
            #ring{secret = Secret, ttl_seconds = Ttl} = Ring ->
                Ring;
            #ring{secret = Secret, previous = Previous} ->
                keep(make_ring(Secret, Previous, Ttl));
            #ring{secret = Before} ->
                keep(make_ring(Secret, {Before, erlang:monotonic_time(second) + Ttl}, Ttl))
        end,
    ok.

keep(Ring) ->
    persistent_term:put(?RING, Ring),
    Ring.

make_ring(Secret, Previous, Ttl) ->
    #ring{secret = Secret, previous = Previous, ttl_seconds = Ttl,
          native = native_ring(Secret, Previous)}.

native_ring(Secret, Previous) ->
    try {esdb_gater_nif:loaded(), Previous} of
        {false, _} -> none;
        {true, none} -> esdb_gater_nif:ring(Secret);
        {true, {Before, _Until}} -> esdb_gater_nif:ring(Secret, Before, ?NEVER)
    catch
        error:_ -> none
    end.

%% A ring belongs to the library that made it. When the library's module was deleted and loaded
%% again, the ring of this node is made anew.
renew(#ring{native = Native}) ->
    case persistent_term:get(?RING, none) of
        #ring{native = Native} -> alone(fun() -> renew_alone(Native) end);
        _ -> ok
    end.

renew_alone(Native) ->
    case persistent_term:get(?RING, none) of
        #ring{native = Native, secret = Secret, previous = Previous, ttl_seconds = Ttl} ->
            case is_usable(Native) of
                true -> ok;                     % it was the message
                false -> _ = keep(make_ring(Secret, Previous, Ttl)), ok
            end;
        _ ->
            ok
    end.

is_usable(Native) ->
    try esdb_gater_nif:sign_map(#{}, Native, 0) of
        _ -> true
    catch
        error:_ -> false
    end.

bytes(Secret) when is_binary(Secret), Secret =/= <<>> ->
    {ok, Secret};
bytes([_ | _] = Secret) ->
    try io_lib:char_list(Secret) andalso unicode:characters_to_binary(Secret) of
        Bytes when is_binary(Bytes) -> {ok, Bytes};
        _ -> error
    catch
        error:_ -> error
    end;
bytes(_) ->
    error.

configured_secret(Security) ->
    case os:getenv("ESDB_GATER_SECRET") of
        [_ | _] = Secret -> bytes_of(Secret);
        _ -> bytes_of(maps:get(hmac_secret, Security, none))
    end.

bytes_of(Secret) ->
    case bytes(Secret) of
        {ok, _} = Ok -> Ok;
        error -> none
    end.

ttl_of(Security) ->
    case maps:get(message_ttl_seconds, Security, ?DEFAULT_TTL_SECONDS) of
        Ttl when is_integer(Ttl), Ttl > 0 -> Ttl;
        _ -> ?DEFAULT_TTL_SECONDS
    end.

%% The environment is read without the checks of the application's start, which may not have run.
environment() ->
    Environment = esdb_gater_config:environment(),
    Security = case lists:keyfind(security, 1, Environment) of
                   {_, Map} when is_map(Map) -> Map;
                   {_, List} when is_list(List) -> maps:from_list([P || {_, _} = P <- List]);
                   _ -> #{}
               end,
    case lists:keyfind(hmac_secret, 1, Environment) of
        {_, Flat} -> maps:merge(#{hmac_secret => Flat}, Security);
        false -> Security
    end.

%% Runs one function at a time on this node, since the second must see the result of the first.
alone(Fun) ->
    esdb_gater_turns:run(?TURN, Fun).
