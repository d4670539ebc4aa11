%%% @doc Workers of stores: registering them, and running operations on them.
%%%
%%% A worker is a process on any node, registered for a store, an atom. Look-ups and the
%%% choice of a worker are answered from a copy of the registry in this node, which the
%%% gateway keeps up to date: no process and no network is asked.
%%% @end
-module(esdb_gater_api).

-include("../include/esdb_gater.hrl").
-include("../include/esdb_gater_telemetry.hrl").

-export([register_worker/2, unregister_worker/2, get_workers/1, get_local_workers/1,
         execute/2, execute/3, cast/2]).

-export_type([store_id/0, operation/0]).

-type store_id() :: atom().
-type operation() :: fun((Worker :: pid()) -> term()).
%% Runs in the calling process for {@link execute/2}, in one of its own for {@link cast/2}.

%% @doc Registers a process as a worker of a store. Registering twice is one entry.
%%
%% After `ok' the caller sees the worker at once, everybody else within the time the gateway
%% needs to tell them. The registration is kept, and repeated after any loss of the gateway,
%% until the process ends or is unregistered. Errors: `badarg' (no atom, or no pid), `noproc'
%% (a process of this node that is dead), `no_quorum', `overloaded', `no_gateway' (none reached
%% in 5 s).
-spec register_worker(store_id(), pid()) -> ok | {error, badarg | noproc | no_gateway | term()}.
register_worker(StoreId, Pid) ->
    esdb_gater_link:register_worker(StoreId, Pid).

%% @doc Takes a worker off a store. Unregistering an unknown one is `ok'.
-spec unregister_worker(store_id(), pid()) -> ok | {error, badarg | no_gateway | term()}.
unregister_worker(StoreId, Pid) ->
    esdb_gater_link:unregister_worker(StoreId, Pid).

%% @doc All workers of a store with their nodes, in order of registration. An unknown store
%% has none. `no_gateway' is given only if there has been no gateway since the start.
-spec get_workers(store_id()) -> {ok, [{node(), pid()}]} | {error, no_gateway}.
get_workers(StoreId) ->
    Started = lookup_started(),
    case esdb_gater_link:await_copy() of
        ok ->
            Workers = esdb_gater_workers:list(StoreId),
            emit_lookup(Started, StoreId),
            {ok, Workers};
        {error, _} = Error ->
            Error
    end.

%% @doc The workers of a store on this node, in order of registration.
-spec get_local_workers(store_id()) -> [pid()].
get_local_workers(StoreId) ->
    Started = lookup_started(),
    Workers = esdb_gater_workers:local(StoreId),
    emit_lookup(Started, StoreId),
    Workers.

%% @doc As {@link execute/3} with {@link esdb_gater_retry:default_config/0}.
-spec execute(store_id(), operation()) -> esdb_gater_retry:result().
execute(StoreId, Fun) when is_function(Fun, 1) ->
    case esdb_gater_telemetry:enabled() of
        false -> run(StoreId, Fun, default);
        true -> observed(StoreId, Fun, default)
    end.

%% @doc Runs `Fun(Worker)' in the calling process, with each worker of the store in turn, and
%% again with another worker after a failure: how often and when is up to `Config', what
%% counts as a failure is said in {@link esdb_gater_retry}. `Config' may also be a map for
%% {@link esdb_gater_retry:new_config/1}.
%%
%% A worker that has failed is not chosen again while there is another. No worker at all is
%% the failure `no_workers'.
-spec execute(store_id(), operation(), esdb_gater_retry:config() | map()) ->
          esdb_gater_retry:result().
execute(StoreId, Fun, Config0) when is_function(Fun, 1) ->
    Config = esdb_gater_retry:to_config(Config0),
    case esdb_gater_telemetry:enabled() of
        false -> run(StoreId, Fun, Config);
        true -> observed(StoreId, Fun, Config)
    end.

%% @doc Runs `Fun(Worker)' once in a process of its own and does not wait for it. What it
%% gives or fails with is dropped.
-spec cast(store_id(), operation()) -> ok | {error, no_workers}.
cast(StoreId, Fun) when is_function(Fun, 1) ->
    case select(StoreId, any, []) of
        none ->
            {error, no_workers};
        Worker ->
            _ = spawn(fun() -> cast_run(StoreId, Fun, Worker) end),
            ok
    end.

cast_run(StoreId, Fun, Worker) ->
    case esdb_gater_telemetry:enabled() of
        false -> _ = esdb_gater_retry:invoke(Fun, Worker), ok;
        true -> _ = measured(StoreId, cast, fun() -> esdb_gater_retry:invoke(Fun, Worker) end), ok
    end.

%% The first call needs no configuration, and so the common case builds none.
run(StoreId, Fun, default) ->
    case select(StoreId, any, []) of
        none ->
            continue(StoreId, Fun, esdb_gater_retry:default_config(), undefined, [], no_workers);
        Worker ->
            case esdb_gater_retry:invoke(Fun, Worker) of
                {ok, _} = Ok ->
                    Ok;
                {error, Reason} ->
                    Config = esdb_gater_retry:default_config(),
                    continue(StoreId, Fun, Config, undefined, [Worker], Reason)
            end
    end;
run(StoreId, Fun, #retry_config{prefer = Prefer} = Config) ->
    Started = esdb_gater_retry:started(Config),
    case select(StoreId, Prefer, []) of
        none ->
            continue(StoreId, Fun, Config, Started, [], no_workers);
        Worker ->
            case esdb_gater_retry:invoke(Fun, Worker) of
                {ok, _} = Ok -> Ok;
                {error, Reason} -> continue(StoreId, Fun, Config, Started, [Worker], Reason)
            end
    end.

continue(StoreId, Fun, #retry_config{prefer = Prefer} = Config, Started, Failed, Reason) ->
    Again =
        fun(FailedSoFar, _Reason) ->
            case select(StoreId, Prefer, FailedSoFar) of
                none ->
                    {{error, no_workers}, FailedSoFar};
                Worker ->
                    Result = esdb_gater_retry:invoke(Fun, Worker),
                    {Result, [Worker | lists:delete(Worker, FailedSoFar)]}
            end
        end,
    esdb_gater_retry:continue(StoreId, Again, Failed, Reason, Config, Started).

select(StoreId, Prefer, Failed) ->
    case lookup_started() of
        undefined ->
            esdb_gater_workers:select(StoreId, Prefer, Failed);
        Started ->
            Worker = esdb_gater_workers:select(StoreId, Prefer, Failed),
            emit_lookup(Started, StoreId),
            Worker
    end.

observed(StoreId, Fun, Config) ->
    measured(StoreId, execute, fun() -> run(StoreId, Fun, Config) end).

measured(StoreId, Type, Fun) ->
    Meta = #{store_id => StoreId, request_type => Type},
    esdb_gater_telemetry:emit(?GATER_REQUEST_START,
                              #{system_time => erlang:system_time(millisecond)}, Meta),
    Started = erlang:monotonic_time(),
    try Fun() of
        {ok, _} = Ok ->
            esdb_gater_telemetry:emit(?GATER_REQUEST_STOP, #{duration => since(Started)},
                                      Meta#{result => success}),
            Ok;
        {error, Reason} = Error ->
            esdb_gater_telemetry:emit(?GATER_REQUEST_ERROR, #{duration => since(Started)},
                                      Meta#{reason => Reason}),
            Error
    catch
        Class:Reason:Stack ->
            esdb_gater_telemetry:emit(?GATER_REQUEST_ERROR, #{duration => since(Started)},
                                      Meta#{reason => {Class, Reason}}),
            erlang:raise(Class, Reason, Stack)
    end.

lookup_started() ->
    case esdb_gater_telemetry:enabled() of
        true -> erlang:monotonic_time();
        false -> undefined
    end.

emit_lookup(undefined, _StoreId) -> ok;
emit_lookup(Started, StoreId) ->
    esdb_gater_telemetry:emit(?GATER_WORKER_LOOKUP, #{duration => since(Started)},
                              #{store_id => StoreId}).

%% Microseconds.
since(Started) ->
    erlang:convert_time_unit(erlang:monotonic_time() - Started, native, microsecond).
