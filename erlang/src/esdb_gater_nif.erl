%%% @private
%%% @doc The functions of the library `gater_nif', and nothing else.
%%%
%%% Loading this module never fails for want of the library: then {@link loaded/0} is `false',
%%% the other functions raise `not_loaded', and their callers have the same in Erlang. The
%%% library is looked for in the `priv' folder beside this module's `ebin' and in that of the
%%% application. The library cannot be replaced while a version of this module has it: a second
%%% version is refused, and the first stays in use. When the first has been deleted and not yet
%%% purged, the second is without the library until it is loaded again.
%%% @end
-module(esdb_gater_nif).

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

%% @doc Whether the library is in use.
-spec loaded() -> boolean().
loaded() ->
    status() =:= loaded.

%% @doc Whether the library is in use, and if not, why.
-spec status() -> loaded | {not_loaded, Why :: not_found | {atom(), string()}}.
status() ->
    persistent_term:get(?MODULE, {not_loaded, not_found}).

%% @doc Prepares a secret.
-spec ring(binary()) -> ring().
ring(_Secret) ->
    erlang:nif_error(not_loaded).

%% @doc Prepares a secret and the one before, which verifies until a Unix second.
-spec ring(binary(), Previous :: binary(), UntilSeconds :: non_neg_integer()) -> ring().
ring(_Secret, _Previous, _UntilSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc The signature of a map that is neither large nor intricate, with `signed_at' put.
-spec sign_map(map(), ring(), NowSeconds :: non_neg_integer()) -> binary() | unsupported.
sign_map(_Map, _Ring, _NowSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Judges a map that is neither large nor intricate. `unsupported' also if the signature
%% is not the one that this node would make.
-spec verify_map(map(), ring(), NowSeconds :: non_neg_integer(), TtlSeconds :: pos_integer()) ->
          ok | reason() | unsupported.
verify_map(_Map, _Ring, _NowSeconds, _TtlSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc The signature of a message that `term_to_binary' has encoded, with `signed_at' put.
%% `unsupported' if only Erlang can do it.
-spec sign(binary(), ring(), NowSeconds :: non_neg_integer()) -> binary() | badarg | unsupported.
sign(_Encoded, _Ring, _NowSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc The same on a dirty scheduler, for a message that is large.
-spec sign_dirty(binary(), ring(), NowSeconds :: non_neg_integer()) ->
          binary() | badarg | unsupported.
sign_dirty(_Encoded, _Ring, _NowSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Judges a message that `term_to_binary' has encoded.
-spec verify(binary(), ring(), NowSeconds :: non_neg_integer(), TtlSeconds :: pos_integer()) ->
          ok | reason() | unsupported.
verify(_Encoded, _Ring, _NowSeconds, _TtlSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc The same on a dirty scheduler, for a message that is large.
-spec verify_dirty(binary(), ring(), NowSeconds :: non_neg_integer(),
                   TtlSeconds :: pos_integer()) -> ok | reason() | unsupported.
verify_dirty(_Encoded, _Ring, _NowSeconds, _TtlSeconds) ->
    erlang:nif_error(not_loaded).

%% @doc Token buckets for topics, all of one rate per second.
-spec limiter(Rate :: pos_integer(), MaxTopics :: pos_integer()) -> limiter().
limiter(_Rate, _MaxTopics) ->
    erlang:nif_error(not_loaded).

%% @doc Takes a token from the bucket of a topic; `false' if it is empty.
-spec check(limiter(), Topic :: binary()) -> boolean().
check(_Limiter, _Topic) ->
    erlang:nif_error(not_loaded).

%% @doc The same at a time of the caller's, which may not go backwards.
-spec check(limiter(), Topic :: binary(), NowNanos :: non_neg_integer()) -> boolean().
check(_Limiter, _Topic, _NowNanos) ->
    erlang:nif_error(not_loaded).

on_load() ->
    case load([Path || Path <- candidates(), filelib:is_regular(Path ++ ".so")], not_found) of
        {not_loaded, {Kind, _}} = Refused when Kind =:= upgrade; Kind =:= reload ->
            %% The first is old code when it has been deleted, and current code otherwise.
            case erlang:check_old_code(?MODULE) of
                true -> persistent_term:put(?MODULE, Refused);
                false -> Refused
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
