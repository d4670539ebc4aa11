%%% @private
%%% @doc The functions of the library `gater_nif'.
%%%
%%% Loading this module succeeds without the library: then {@link loaded/0} returns `false', the
%%% other functions raise `not_loaded', and their callers use implementations in Erlang. The library
%%% is searched for in the `priv' directory beside the `ebin' directory of this module, and in that
%%% of the application. The library cannot be replaced while a version of this module uses it, because
%%% rustler offers no upgrade: a second version is refused (`c:l(esdb_gater_nif)' returns
%%% `{error, on_load_failure}'), the log says so, and the first stays in use. If the first was deleted
%%% and not yet purged, the second is without the library until it is loaded again.
%%% @end
-module(esdb_gater_nif).

-include_lib("kernel/include/logger.hrl").

-export([loaded/0, status/0]).
-export([ring/1, ring/3, sign_map/3, verify_map/4, sign/3, sign_dirty/3, verify/4, verify_dirty/4,
         limiter/2, check/2, check/3]).

-on_load(on_load/0).

-nifs([ring/1, ring/3, sign_map/3, verify_map/4, sign/3, sign_dirty/3, verify/4, verify_dirty/4,
       limiter/2, check/2, check/3]).

-export_type([ring/0, limiter/0, reason/0]).

-type ring() :: reference().
-type limiter() :: reference().
-type reason() :: badarg | missing_signature | missing_timestamp | invalid_timestamp
                | message_expired | invalid_signature.

-define(LIBRARY, "gater_nif").

%% @doc Returns whether the library is in use.
-spec loaded() -> boolean().
loaded() ->
    status() =:= loaded.

%% @doc Returns whether the library is in use, and otherwise the reason.
-spec status() -> loaded | {not_loaded, Why :: not_found | {atom(), string()}}.
status() ->
    persistent_term:get(?MODULE, {not_loaded, not_found}).

%% @doc Prepares a secret.
-spec ring(binary()) -> ring().
ring(_Secret) ->
    erlang:nif_error(not_loaded).

%% @doc Prepares a secret and the previous one, which verifies until a Unix second.
-spec ring(binary(), Previous :: binary(), UntilSeconds :: non_neg_integer()) -> ring().
ring(_Secret, _Previous, _UntilSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Returns the signature of a map that is neither large nor deeply nested, with `signed_at'
%% put.
-spec sign_map(map(), ring(), NowSeconds :: non_neg_integer()) -> binary() | unsupported.
sign_map(_Map, _Ring, _NowSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Verifies a map that is neither large nor deeply nested. Also returns `unsupported' if the
%% signature is not the one that this node would make.
-spec verify_map(map(), ring(), NowSeconds :: non_neg_integer(), TtlSeconds :: pos_integer()) ->
          ok | reason() | unsupported.
verify_map(_Map, _Ring, _NowSeconds, _TtlSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Returns the signature of a message that `term_to_binary' has encoded, with `signed_at' put.
%% Returns `unsupported' if only the implementation in Erlang can sign it.
-spec sign(binary(), ring(), NowSeconds :: non_neg_integer()) -> binary() | badarg | unsupported.
sign(_Encoded, _Ring, _NowSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Does the same on a dirty scheduler, for a large message.
-spec sign_dirty(binary(), ring(), NowSeconds :: non_neg_integer()) ->
          binary() | badarg | unsupported.
sign_dirty(_Encoded, _Ring, _NowSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Verifies a message that `term_to_binary' has encoded.
-spec verify(binary(), ring(), NowSeconds :: non_neg_integer(), TtlSeconds :: pos_integer()) ->
          ok | reason() | unsupported.
verify(_Encoded, _Ring, _NowSeconds, _TtlSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Does the same on a dirty scheduler, for a large message.
-spec verify_dirty(binary(), ring(), NowSeconds :: non_neg_integer(),
                   TtlSeconds :: pos_integer()) -> ok | reason() | unsupported.
verify_dirty(_Encoded, _Ring, _NowSeconds, _TtlSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Returns token buckets for topics, all with the same rate per second.
-spec limiter(Rate :: pos_integer(), MaxTopics :: pos_integer()) -> limiter().
limiter(_Rate, _MaxTopics) ->
    erlang:nif_error(not_loaded).

%% @doc Takes a token from the bucket of a topic. Returns `false' if it is empty.
-spec check(limiter(), Topic :: binary()) -> boolean().
check(_Limiter, _Topic) ->
    erlang:nif_error(not_loaded).

%% @doc Does the same at the given time, which must not go backwards.
-spec check(limiter(), Topic :: binary(), NowNanos :: non_neg_integer()) -> boolean().
check(_Limiter, _Topic, _NowNanos) ->
    erlang:nif_error(not_loaded).

on_load() ->
    case load([Path || Path <- candidates(), filelib:is_regular(Path ++ ".so")], not_found) of
        {not_loaded, {Kind, _}} = Refused when Kind =:= upgrade; Kind =:= reload ->
            %% The first version is old code if it was deleted, and current code otherwise.
            case erlang:check_old_code(?MODULE) of
                true ->
                    persistent_term:put(?MODULE, Refused);
                false ->
                    ?LOG_NOTICE("erl_esdb_gater: the version of esdb_gater_nif that is loaded stays in "
                                "use with its library, which the new version cannot take over; to "
                                "load another one, restart the node", #{application => erl_esdb_gater}),
                    Refused
            end;
        Status ->
            persistent_term:put(?MODULE, Status)
    end.

load([], Why) ->
    {not_loaded, Why};
load([Path | Others], _Why) ->
    case erlang:load_nif(Path, 0) of
        ok -> loaded;
        {error, Why} -> load(Others, Why)
    end.

candidates() ->
    Beside = case code:which(?MODULE) of
                 Beam when is_list(Beam), Beam =/= "" ->
                     [filename:join(filename:dirname(filename:dirname(Beam)), "priv")];
                 _ ->
                     []
             end,
    Own = case code:priv_dir(erl_esdb_gater) of
              Dir when is_list(Dir) -> [Dir];
              {error, bad_name} -> []
          end,
    [filename:absname(filename:join(Priv, ?LIBRARY)) || Priv <- Beside ++ (Own -- Beside)].
