%%% @doc Retry with exponential backoff and jitter.
%%%
%%% The delay before retry `k' (from 0) is `base_delay_ms * 2^k' plus 0 to 25 percent of it, and
%%% never exceeds `max_delay_ms'. Where it would exceed the maximum, the jitter reduces the delay
%%% instead, down to 75 percent of the maximum once the doubled delay has reached it, so that many
%%% callers that failed together do not retry together.
%%%
%%% The outcome of a call determines the next step:
%%% <ul>
%%% <li>`{ok, R}' is the result, `ok' becomes `{ok, ok}', and any other term `T' becomes
%%%     `{ok, T}'. Nested `ok' tuples are reduced to one.</li>
%%% <li>`{error, R}' is retried, unless `R' shows that no repetition can help
%%%     (see {@link retryable/1}).</li>
%%% <li>An exit is a failure: `noproc' becomes `worker_down', `nodedown' and `noconnection'
%%%     become `node_down', a timeout becomes `timeout', and any other reason `{worker_exit,
%%%     Reason}'.
%%%     A call of the calling process itself is `calling_self', which is not retried.</li>
%%% <li>An exception of class `error' is a bug of the caller and is raised unchanged, and so
%%%     is a `throw'.</li>
%%% </ul>
%%% After the last failure the result is `{error, {retries_exhausted, Reason}}'.
%%% @end
-module(esdb_gater_retry).

-include("../include/esdb_gater.hrl").
-include("../include/esdb_gater_telemetry.hrl").

-export([with_retry/2, with_retry/3, new_config/1, new_config/3, default_config/0,
         calculate_delay/2]).
%% Exported for esdb_gater_api.
-export([invoke/1, invoke/2, continue/6, retryable/1, ambiguous/1, started/1, to_config/1]).
%% Exported for the application.
-export([configure/1, forget/0]).
%% Exported for the shell and for crash reports.
-export([format_error/2]).

-export_type([config/0, result/0]).

-type config() :: #retry_config{}.
%% The values of a configuration; see {@link new_config/1} and {@link new_config/3}.
-type result() :: {ok, term()} | {error, term()}.
%% The result of an operation.
-type started() :: integer() | undefined.
%% The monotonic milliseconds of the first call, which are only kept if there is a deadline.

%% The greatest exponent of the doubling: 2^62 ms is longer than any maximum in use, and the shift
%% must not create a big integer for a large number of attempts.
-define(MAX_EXPONENT, 62).
%% The configuration of the running application, parsed when it started.
-define(DEFAULT, {?MODULE, default}).

%% @doc Does the same as {@link with_retry/3} with {@link default_config/0}.
-spec with_retry(StoreId :: term(), fun(() -> term())) -> result().
with_retry(StoreId, Fun) ->
    with_retry(StoreId, Fun, default_config()).

%% @doc Calls `Fun' in the calling process until it succeeds or `Config' ends the attempts.
%% `StoreId' only names the operation in telemetry events.
-spec with_retry(StoreId :: term(), fun(() -> term()), config() | map()) -> result().
with_retry(StoreId, Fun, Config0) when is_function(Fun, 0) ->
    Config = to_config(Config0),
    Started = started(Config),
    case invoke(Fun) of
        {ok, _} = Ok ->
            Ok;
        {error, Reason} ->
            Again = fun(State, _Reason) -> {invoke(Fun), State} end,
            continue(StoreId, Again, [], Reason, Config, Started)
    end.

%% @doc Returns a configuration of base delay and maximum delay in milliseconds, and of the total
%% number of calls (`max_attempts', at least 1).
%% @throws badarg
-spec new_config(non_neg_integer(), non_neg_integer(), pos_integer()) -> config().
new_config(BaseDelayMs, MaxDelayMs, MaxAttempts) ->
    new_config(#{base_delay_ms => BaseDelayMs, max_delay_ms => MaxDelayMs,
                 max_attempts => MaxAttempts}).

%% @doc Returns a configuration from a map; missing values are those of {@link default_config/0}.
%%
%% Keys: `base_delay_ms', `max_delay_ms' (not below the base), `max_attempts' (all calls) or
%% `max_retries' (without the first), `ambiguous' (`retry' | `return'), `deadline_ms' (the time
%% after the first call after which no retry begins; `infinity'), `prefer' (`any' | `local'). An
%% unknown key or an invalid value raises `badarg', with the key in the error's `error_info'.
%% @throws badarg
-spec new_config(map()) -> config().
new_config(Map) when is_map(Map) ->
    case changed(Map, default_config()) of
        {ok, Config} -> Config;
        {error, Problem} -> erlang:error(badarg, [Map], info(Problem))
    end;
new_config(Other) ->
    erlang:error(badarg, [Other], info({not_a, map, Other})).

%% @doc Returns the configuration in the key `retry' of the application environment, or 100 ms, 5 s
%% and 5 calls where values are missing. It is parsed when the application starts; later changes of
%% the environment take effect at the next start.
%% @throws badarg
-spec default_config() -> config().
default_config() ->
    case persistent_term:get(?DEFAULT, none) of
        none -> from_environment();
        Config -> Config
    end.

%% Without the application, the result is the one that a start would have now.
from_environment() ->
    Environment = esdb_gater_config:environment(),
    case esdb_gater_config:check([Pair || {retry, _} = Pair <- Environment]) of
        {ok, Config, _Warnings} ->
            {ok, Default} = changed(maps:get(retry, Config, #{}), #retry_config{}),
            Default;
        {error, Problem} ->
            erlang:error(badarg, [], info(Problem))
    end.

%% @private
%% @doc Stores the checked section `retry' of the configuration for as long as the application runs.
-spec configure(map()) -> ok.
configure(Retry) ->
    {ok, Config} = changed(Retry, #retry_config{}),
    persistent_term:put(?DEFAULT, Config).

%% @private
%% @doc Removes the stored configuration, since the application has stopped.
-spec forget() -> ok.
forget() ->
    _ = persistent_term:erase(?DEFAULT),
    ok.

%% @private
%% @doc Returns the problem with a configuration; see `erl_error'.
-spec format_error(Reason :: term(), erlang:stacktrace()) -> #{pos_integer() | general => string()}.
format_error(badarg, [{_, _, Arguments, Info} | _]) ->
    #{cause := Problem} = proplists:get_value(error_info, Info, #{cause => none}),
    Key = case Arguments of [_] -> 1; _ -> general end,
    #{Key => describe(Problem)};
format_error(_Reason, _Stack) ->
    #{}.

describe({not_a, map, Other}) ->
    text("is ~0tp, but must be a map", [Other]);
describe({unknown_key, Key, none}) ->
    text("unknown key ~ts", [Key]);
describe({unknown_key, Key, Nearest}) ->
    text("unknown key ~ts; did you mean ~ts?", [Key, Nearest]);
describe({bad_config, Key, Value, Expected}) ->
    text("~ts is ~0tp, but must be ~ts", [Key, Value, Expected]);
describe(none) ->
    "bad configuration".

text(Format, Arguments) -> lists:flatten(io_lib:format(Format, Arguments)).

info(Problem) ->
    [{error_info, #{module => ?MODULE, cause => Problem}}].

%% @doc Returns the delay in milliseconds before retry `Attempt' (from 0): the doubled base delay
%% plus up to a quarter of it, at most `max_delay_ms', and exactly that once the doubled delay has
%% reached it. (The delays of {@link with_retry/3} are then a random 75 to 100 percent of the
%% maximum.)
-spec calculate_delay(Attempt :: non_neg_integer(), config()) -> non_neg_integer().
calculate_delay(Attempt, Config) when is_integer(Attempt), Attempt >= 0 ->
    #retry_config{base_delay_ms = Base, max_delay_ms = Max} = to_config(Config),
    case doubled(Base, Attempt) of
        Raw when Raw >= Max -> Max;
        Raw -> min(Max, Raw + below(Raw div 4))
    end.

%% @private Calls `Fun' and converts its outcome into one of two forms.
-spec invoke(fun(() -> term())) -> result().
invoke(Fun) ->
    try Fun() of
        Result -> shape(Result)
    catch
        exit:Reason -> {error, exit_reason(Reason)}
    end.

%% @private Does the same as {@link invoke/1} with one argument, the chosen worker.
-spec invoke(fun((pid()) -> term()), pid()) -> result().
invoke(Fun, Worker) ->
    try Fun(Worker) of
        Result -> shape(Result)
    catch
        exit:Reason -> {error, exit_reason(Reason)}
    end.

%% @private Continues after a first failure for `Reason': waits, calls `Again(State, Reason)', and
%% so on.
-spec continue(term(), fun((State, term()) -> {result(), State}), State, term(), config(),
               started()) -> result().
continue(StoreId, Again, State, Reason, Config, Started) ->
    retry(StoreId, Again, State, Reason, Config, Started, 0).

%% @private Returns the time from which a deadline is counted.
-spec started(config()) -> started().
started(#retry_config{deadline_ms = infinity}) -> undefined;
started(#retry_config{}) -> erlang:monotonic_time(millisecond).

retry(StoreId, Again, State, Reason, Config, Started, Retries) ->
    case verdict(Reason, Config) of
        return ->
            {error, Reason};
        retry when Retries >= Config#retry_config.max_retries ->
            exhausted(StoreId, Reason, Retries);
        retry ->
            Delay = jittered_delay(Retries, Config),
            case in_time(Delay, Config, Started) of
                false ->
                    exhausted(StoreId, Reason, Retries);
                true ->
                    emit_attempt(StoreId, Reason, Delay, Retries + 1),
                    timer:sleep(Delay),
                    case Again(State, Reason) of
                        {{ok, _} = Ok, _} ->
                            Ok;
                        {{error, Next}, State1} ->
                            retry(StoreId, Again, State1, Next, Config, Started, Retries + 1)
                    end
            end
    end.

verdict(Reason, #retry_config{ambiguous = Ambiguous}) ->
    case retryable(Reason) of
        false -> return;
        true when Ambiguous =:= retry -> retry;
        true ->
            case ambiguous(Reason) of
                true -> return;
                false -> retry
            end
    end.

%% @doc Returns whether repeating an operation that failed for this reason can help. It cannot if
%% the operation names something that does not exist, or contradicts the state of the store.
-spec retryable(term()) -> boolean().
retryable({stream_not_found, _}) -> false;
retryable({wrong_expected_version, _}) -> false;
retryable({wrong_expected_version, _, _}) -> false;
retryable(not_found) -> false;
retryable({invalid_stream_id, _, _}) -> false;
retryable({invalid_filter, _}) -> false;
retryable({subscription_not_found, _}) -> false;
retryable({no_snapshot, _}) -> false;
retryable({context_changed, _}) -> false;
retryable(unknown_request) -> false;
retryable(calling_self) -> false;
retryable(_) -> true.

%% @doc Returns whether an operation that failed for this reason may nevertheless have been carried
%% out: it was sent, and no answer came back.
-spec ambiguous(term()) -> boolean().
ambiguous(timeout) -> true;
ambiguous({timeout, _}) -> true;
ambiguous(node_down) -> true;
ambiguous({worker_exit, _}) -> true;
ambiguous(_) -> false.

exhausted(StoreId, Reason, Retries) ->
    case esdb_gater_telemetry:enabled() of
        false -> ok;
        true -> esdb_gater_telemetry:emit(?GATER_RETRY_EXHAUSTED,
                                          #{total_attempts => Retries + 1},
                                          #{store_id => StoreId, reason => Reason})
    end,
    {error, {retries_exhausted, Reason}}.

emit_attempt(StoreId, Reason, Delay, Attempt) ->
    case esdb_gater_telemetry:enabled() of
        false -> ok;
        true -> esdb_gater_telemetry:emit(?GATER_RETRY_ATTEMPT,
                                          #{delay_ms => Delay, attempt => Attempt},
                                          #{store_id => StoreId, reason => Reason})
    end.

%% A retry that would begin after the deadline is not waited for.
in_time(_Delay, #retry_config{deadline_ms = infinity}, _Started) -> true;
in_time(Delay, #retry_config{deadline_ms = Deadline}, Started) ->
    erlang:monotonic_time(millisecond) + Delay - Started =< Deadline.

%% A quarter of the doubled delay is random. Where the maximum would cut it off, the jitter reduces
%% the delay instead.
jittered_delay(Retries, #retry_config{base_delay_ms = Base, max_delay_ms = Max}) ->
    Raw = min(Max, doubled(Base, Retries)),
    min(Max, Raw + Raw div 4) - below(Raw div 4).

doubled(Base, Attempt) -> Base bsl min(Attempt, ?MAX_EXPONENT).

%% Returns a random integer from 0 to N.
below(0) -> 0;
below(N) -> rand:uniform(N + 1) - 1.

shape({ok, {ok, _} = Nested}) -> shape(Nested);
shape({ok, _} = Ok) -> Ok;
shape({error, _} = Error) -> Error;
shape(Other) -> {ok, Other}.

exit_reason({Reason, {Module, Function, Args}})
  when is_atom(Module), is_atom(Function), is_list(Args) -> exit_reason(Reason);
exit_reason(noproc) -> worker_down;
exit_reason({noproc, _}) -> worker_down;
exit_reason(nodedown) -> node_down;
exit_reason({nodedown, _}) -> node_down;
exit_reason(noconnection) -> node_down;
exit_reason({noconnection, _}) -> node_down;
exit_reason(timeout) -> timeout;
exit_reason({timeout, _}) -> timeout;
%% The worker is the process that runs the operation, so no repetition makes it answer.
exit_reason(calling_self) -> calling_self;
exit_reason(Reason) -> {worker_exit, Reason}.

%% @private Accepts a record, the record with three fields of the original library, or a map. Raises
%% `badarg' for any other term.
-spec to_config(config() | tuple() | map()) -> config().
to_config(#retry_config{base_delay_ms = Base, max_delay_ms = Max, max_retries = Retries,
                        ambiguous = Ambiguous, deadline_ms = Deadline, prefer = Prefer} = Config) ->
    Values = #{base_delay_ms => Base, max_delay_ms => Max, max_retries => Retries,
               ambiguous => Ambiguous, deadline_ms => Deadline, prefer => Prefer},
    case esdb_gater_config:check_retry(Values) of
        ok -> Config;
        {error, Problem} -> erlang:error(badarg, [Config], info(Problem))
    end;
to_config({retry_config, Base, Max, Retries}) ->
    new_config(#{base_delay_ms => Base, max_delay_ms => Max, max_retries => Retries});
to_config(Map) -> new_config(Map).

changed(Map, #retry_config{base_delay_ms = Base, max_delay_ms = Max} = Config) ->
    Bounds = maps:merge(#{base_delay_ms => Base, max_delay_ms => Max}, Map),
    case esdb_gater_config:check_retry(Bounds) of
        ok -> {ok, maps:fold(fun put_key/3, Config, Map)};
        {error, _} = Error -> Error
    end.

put_key(base_delay_ms, V, C) -> C#retry_config{base_delay_ms = V};
put_key(max_delay_ms, V, C) -> C#retry_config{max_delay_ms = V};
put_key(max_attempts, V, C) -> C#retry_config{max_retries = V - 1};
put_key(max_retries, V, C) -> C#retry_config{max_retries = V};
put_key(ambiguous, V, C) -> C#retry_config{ambiguous = V};
put_key(deadline_ms, V, C) -> C#retry_config{deadline_ms = V};
put_key(prefer, V, C) -> C#retry_config{prefer = V}.
