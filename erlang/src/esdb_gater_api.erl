%%% @doc Workers of stores: registering them, and running operations on them.
%%%
%%% A worker is a process on any node that is registered for a store, which is an atom. Look-ups and
%%% the choice of a worker use a mirror of the registry on this node, which the gateway keeps up to
%%% date, without a call to any process or node.
%%%
%%% The *data API* below requests something of a store by name: each function sends one request to a
%%% worker of the store and retries as {@link execute/2} does. Its functions are generated from the
%%% table `esdb_gater_api.operations' by `scripts/data-api'.
%%% @end
-module(esdb_gater_api).

-include("../include/esdb_gater.hrl").
-include("../include/esdb_gater_telemetry.hrl").

-export([register_worker/1, register_worker/2, unregister_worker/1, unregister_worker/2,
         get_workers/1, get_local_workers/1, execute/2, execute/3, cast/2]).
%% The data API.
-export([append_events/5, read_by_tags/2, read_by_tags/3, has_events/1, list_stores/0, health/0]).
%% <exports>
-export([append_events/3, append_events/4, get_events/5, stream_forward/4, stream_backward/4,
         get_version/2, stream_info/2, delete_stream/2, get_streams/1, read_by_event_types/3,
         read_all_global/3, get_subscriptions/1, list_store_subscriptions/1,
         get_subscription/2, subscription_lag/2, save_subscription/6, remove_subscription/4,
         ack_event/4, record_snapshot/5, delete_snapshot/4, read_snapshot/4, list_snapshots/3,
         list_all_snapshots/1, read_until/3, read_until/4, read_range/4, read_range/5,
         version_at/3, scavenge/3, scavenge_matching/3, scavenge_dry_run/3, get_effects/2,
         get_cause/2, get_causation_chain/2, get_correlated/2, build_causation_graph/2,
         list_schemas/1, get_schema/2, get_schema_version/2, upcast_events/2,
         register_schema/3, unregister_schema/2, create_link/2, delete_link/2, start_link/2,
         stop_link/2, list_links/1, get_link/2, link_info/2, store_stats/1,
         event_type_summary/1, get_memory_level/1, get_memory_stats/1,
         verify_cluster_consistency/1, quick_health_check/1, verify_membership_consensus/1,
         check_raft_log_consistency/1]).
%% </exports>
%% Exported for esdb_gater_request.
-export([execute_as/4, cast_as/3]).

-export_type([store_id/0, operation/0, stream_id/0, version/0, event_data/0, answer/1, health/0]).

-type store_id() :: atom().
-type operation() :: fun((Worker :: pid()) -> term()).
%% An operation runs in the calling process for {@link execute/2}, and in a process of its own for
%% {@link cast/2}.
-type stream_id() :: binary().
-type version() :: integer().
%% The first event of a stream has version 0. An expected version may also be `?NO_STREAM',
%% `?ANY_VERSION' or `?STREAM_EXISTS' of `esdb_gater_types.hrl'.
-type event_data() :: map() | tuple().
%% An event in any form that the store accepts.
-type answer(Value) :: {ok, Value} | {error, Reason :: term()}.
%% The answer of the worker: `{ok, R}' and `{error, R}' are returned unchanged, `ok' as `{ok, ok}',
%% and any other term as `{ok, Answer}'. After the last retry the reason is `{retries_exhausted,
%% Reason}'.
-type health() :: #{status := healthy | degraded, reason => term(),
                    stores := #{store_id() => pos_integer()}, total_workers := non_neg_integer(),
                    node := node(), timestamp := integer()}.
%% The number of workers per store that this node knows; `timestamp' is in Unix milliseconds.

%% @doc Registers the calling process; see {@link register_worker/2}.
-spec register_worker(store_id()) -> ok | {error, badarg | no_gateway | term()}.
register_worker(StoreId) ->
    register_worker(StoreId, self()).

%% @doc Registers a process as a worker of a store. Registering it twice results in one entry.
%%
%% After `ok' the caller finds the worker immediately, and other nodes find it as soon as the
%% gateway has told them. The registration is kept, and repeated after any loss of the gateway,
%% until the process ends or is unregistered. Errors: `badarg' (not an atom or not a pid), `noproc'
%% (a dead process of this node), `no_quorum', `overloaded', `no_gateway' (no gateway was reached in
%% 5 s).
-spec register_worker(store_id(), pid()) -> ok | {error, badarg | noproc | no_gateway | term()}.
register_worker(StoreId, Pid) ->
    esdb_gater_link:register_worker(StoreId, Pid).

%% @doc Unregisters the calling process from a store; see {@link unregister_worker/2}.
-spec unregister_worker(store_id()) -> ok | {error, badarg | no_gateway | term()}.
unregister_worker(StoreId) ->
    unregister_worker(StoreId, self()).

%% @doc Unregisters a worker from a store. Unregistering an unknown worker returns `ok'.
-spec unregister_worker(store_id(), pid()) -> ok | {error, badarg | no_gateway | term()}.
unregister_worker(StoreId, Pid) ->
    esdb_gater_link:unregister_worker(StoreId, Pid).

%% @doc Returns all workers of a store with their nodes, in order of registration. An unknown store
%% has no workers. Returns `no_gateway' only if there has been no gateway since the start, and
%% `badarg' for a store that is not an atom.
-spec get_workers(store_id()) -> {ok, [{node(), pid()}]} | {error, no_gateway | badarg}.
get_workers(StoreId) when not is_atom(StoreId) ->
    {error, badarg};
get_workers(StoreId) ->
    Started = lookup_started(),
    %% A known store came with the registry of a gateway, or was registered on this node.
    case esdb_gater_workers:listed(StoreId) of
        {ok, _} = Listed ->
            emit_lookup(Started, StoreId),
            Listed;
        none ->
            await_workers(StoreId, Started)
    end.

await_workers(StoreId, Started) ->
    case esdb_gater_link:await_mirror() of
        ok ->
            Workers = esdb_gater_workers:list(StoreId),
            emit_lookup(Started, StoreId),
            {ok, Workers};
        {error, _} = Error ->
            Error
    end.

%% @doc Returns the workers of a store on this node, in order of registration.
-spec get_local_workers(store_id()) -> [pid()].
get_local_workers(StoreId) ->
    Started = lookup_started(),
    Workers = esdb_gater_workers:local(StoreId),
    emit_lookup(Started, StoreId),
    Workers.

%% @doc Does the same as {@link execute/3} with {@link esdb_gater_retry:default_config/0}.
-spec execute(store_id(), operation()) -> esdb_gater_retry:result().
execute(StoreId, Fun) when is_function(Fun, 1) ->
    execute_as(execute, StoreId, Fun, default).

%% @doc Runs `Fun(Worker)' in the calling process. The workers of the store are used in turn, and
%% after a failure the function runs again with another worker. `Config', which may also be a map
%% for {@link esdb_gater_retry:new_config/1}, determines how often and when; {@link
%% esdb_gater_retry} defines what counts as a failure.
%%
%% A worker that has failed is not chosen again while there is another one. If the store has no
%% worker, the failure is `no_workers'. The result for a store that is not an atom is `{error,
%% badarg}', without a retry.
-spec execute(store_id(), operation(), esdb_gater_retry:config() | map()) ->
          esdb_gater_retry:result().
execute(StoreId, Fun, Config0) when is_function(Fun, 1) ->
    execute_as(execute, StoreId, Fun, esdb_gater_retry:to_config(Config0)).

%% @private Does the same as {@link execute/3}; `Type' is the `request_type' of telemetry events.
-spec execute_as(Type :: atom(), store_id(), operation(), default | esdb_gater_retry:config()) ->
          esdb_gater_retry:result().
execute_as(_Type, StoreId, _Fun, _Config) when not is_atom(StoreId) ->
    {error, badarg};
execute_as(Type, StoreId, Fun, Config) ->
    case esdb_gater_telemetry:enabled() of
        false -> run(StoreId, Fun, Config);
        true -> measured(StoreId, Type, fun() -> run(StoreId, Fun, Config) end)
    end.

%% @doc Runs `Fun(Worker)' once in a process of its own, without waiting for it. Its result and its
%% failure are ignored.
-spec cast(store_id(), operation()) -> ok | {error, no_workers | badarg}.
cast(StoreId, Fun) when not is_atom(StoreId), is_function(Fun, 1) ->
    {error, badarg};
cast(StoreId, Fun) when is_function(Fun, 1) ->
    case select(StoreId, any, []) of
        none ->
            {error, no_workers};
        Worker ->
            _ = spawn(fun() -> cast_run(StoreId, Fun, Worker) end),
            ok
    end.

%% @private Runs `Fun(Worker)' in the calling process, for functions that do not wait.
-spec cast_as(Type :: atom(), store_id(), operation()) -> ok | {error, no_workers}.
cast_as(Type, StoreId, Fun) ->
    case select(StoreId, any, []) of
        none ->
            {error, no_workers};
        Worker ->
            Cast = fun() -> esdb_gater_retry:invoke(Fun, Worker) end,
            _ = case esdb_gater_telemetry:enabled() of
                    false -> Cast();
                    true -> measured(StoreId, Type, Cast)
                end,
            ok
    end.

cast_run(StoreId, Fun, Worker) ->
    case esdb_gater_telemetry:enabled() of
        false -> _ = esdb_gater_retry:invoke(Fun, Worker), ok;
        true -> _ = measured(StoreId, cast, fun() -> esdb_gater_retry:invoke(Fun, Worker) end), ok
    end.

run(StoreId, Fun, default) ->
    run(StoreId, Fun, esdb_gater_retry:default_config());
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

%% Returns the microseconds since a time.
since(Started) ->
    erlang:convert_time_unit(erlang:monotonic_time() - Started, native, microsecond).

%%% The data API

%% @doc Does the same as {@link append_events/4} with its own retry configuration, such as
%% `#{ambiguous => return}'.
-spec append_events(store_id(), stream_id(), version(), [event_data()],
                    esdb_gater_retry:config() | map()) -> answer(term()).
append_events(StoreId, StreamId, ExpectedVersion, Events, Config) ->
    esdb_gater_request:ask(StoreId, {append_events, StoreId, StreamId, ExpectedVersion, Events},
                           esdb_gater_retry:to_config(Config)).

%% @doc Does the same as {@link read_by_tags/3} for any of the tags, with up to 1000 events.
-spec read_by_tags(store_id(), Tags :: [binary()]) -> answer(term()).
read_by_tags(StoreId, Tags) ->
    read_by_tags(StoreId, Tags, #{}).

%% @doc Returns up to `batch_size' (1000) events that have `any' (the default) or `all' of these
%% tags, from all streams.
-spec read_by_tags(store_id(), Tags :: [binary()],
                   #{match => any | all, batch_size => pos_integer()}) -> answer(term()).
read_by_tags(StoreId, Tags, Options) ->
    Match = maps:get(match, Options, any),
    BatchSize = maps:get(batch_size, Options, 1000),
    ask(StoreId, {read_by_tags, StoreId, Tags, Match, BatchSize}).

%% @doc Returns whether a store has events: the answer of its worker if that is a boolean, `true'
%% for any other success, and `false' for an error.
-spec has_events(store_id()) -> boolean().
has_events(StoreId) ->
    case ask(StoreId, {has_events, StoreId}) of
        {ok, Answer} when is_boolean(Answer) -> Answer;
        {ok, _} -> true;
        {error, _} -> false
    end.

%% @doc Returns the stores that a worker of any store knows.
-spec list_stores() -> answer([store_id()]) | {error, no_workers}.
list_stores() ->
    esdb_gater_request:ask_any({list_stores}).

%% @doc Returns the stores that have workers, from this node's mirror of the registry. The status is
%% `degraded' while there is no gateway or no worker.
-spec health() -> {ok, health()}.
health() ->
    esdb_gater_request:health().

ask(StoreId, Request) -> esdb_gater_request:ask(StoreId, Request).

tell(StoreId, Request) -> esdb_gater_request:tell(StoreId, Request).

%% <operations>
%%% Streams

%% @doc Appends events to a stream, at whatever version it is. A repetition after a time-out or
%% a lost worker may append them a second time, because nobody can tell whether the first
%% attempt was carried out. It is repeated by default, as in the original;
%% {@link append_events/4} with an expected version makes a second append impossible,
%% {@link append_events/5} or the configuration key `retry.ambiguous' with `return' gives
%% back `{error, timeout}' instead of repeating.
-spec append_events(StoreId :: store_id(), StreamId :: stream_id(), Events :: [event_data()]) ->
          answer(term()).
append_events(StoreId, StreamId, Events) ->
    ask(StoreId, {append_events, StoreId, StreamId, Events}).

%% @doc Appends events to a stream that is at the expected version (or `?NO_STREAM',
%% `?ANY_VERSION', `?STREAM_EXISTS'). `{error, {wrong_expected_version, _}}' may also mean
%% that an earlier attempt of the same call was carried out although its answer was lost.
-spec append_events(StoreId :: store_id(), StreamId :: stream_id(),
                    ExpectedVersion :: version(), Events :: [event_data()]) -> answer(term()).
append_events(StoreId, StreamId, ExpectedVersion, Events) ->
    ask(StoreId, {append_events, StoreId, StreamId, ExpectedVersion, Events}).

%% @doc Returns up to `Count' events of a stream from version `Start' on, in this direction.
-spec get_events(StoreId :: store_id(), StreamId :: stream_id(), Start :: version(),
                 Count :: pos_integer(), Direction :: forward | backward) -> answer(term()).
get_events(StoreId, StreamId, Start, Count, Direction) ->
    ask(StoreId, {get_events, StoreId, StreamId, Start, Count, Direction}).

%% @doc Returns up to `Count' events of a stream from version `Start' upwards.
-spec stream_forward(StoreId :: store_id(), StreamId :: stream_id(), Start :: version(),
                     Count :: pos_integer()) -> answer(term()).
stream_forward(StoreId, StreamId, Start, Count) ->
    ask(StoreId, {stream_forward, StoreId, StreamId, Start, Count}).

%% @doc Returns up to `Count' events of a stream from version `Start' downwards.
-spec stream_backward(StoreId :: store_id(), StreamId :: stream_id(), Start :: version(),
                      Count :: pos_integer()) -> answer(term()).
stream_backward(StoreId, StreamId, Start, Count) ->
    ask(StoreId, {stream_backward, StoreId, StreamId, Start, Count}).

%% @doc Returns the version of the last event of a stream, -1 for a stream without events.
-spec get_version(StoreId :: store_id(), StreamId :: stream_id()) -> answer(version()).
get_version(StoreId, StreamId) ->
    ask(StoreId, {get_version, StoreId, StreamId}).

%% @doc Returns what the store knows of a stream.
-spec stream_info(StoreId :: store_id(), StreamId :: stream_id()) -> answer(term()).
stream_info(StoreId, StreamId) ->
    ask(StoreId, {stream_info, StoreId, StreamId}).

%% @doc Deletes a stream with its events.
-spec delete_stream(StoreId :: store_id(), StreamId :: stream_id()) -> answer(term()).
delete_stream(StoreId, StreamId) ->
    ask(StoreId, {delete_stream, StoreId, StreamId}).

%% @doc Returns the streams of a store.
-spec get_streams(StoreId :: store_id()) -> answer([stream_id()]).
get_streams(StoreId) ->
    ask(StoreId, {get_streams, StoreId}).

%%% Reading across streams

%% @doc Returns up to `BatchSize' events of these types, from all streams.
-spec read_by_event_types(StoreId :: store_id(), Types :: [binary()],
                          BatchSize :: pos_integer()) -> answer(term()).
read_by_event_types(StoreId, Types, BatchSize) ->
    ask(StoreId, {read_by_event_types, StoreId, Types, BatchSize}).

%% @doc Returns up to `BatchSize' events of all streams in the order in which they were
%% written, from the position `Offset' on.
-spec read_all_global(StoreId :: store_id(), Offset :: non_neg_integer(),
                      BatchSize :: pos_integer()) -> answer(term()).
read_all_global(StoreId, Offset, BatchSize) ->
    ask(StoreId, {read_all_global, StoreId, Offset, BatchSize}).

%%% Subscriptions

%% @doc Returns the subscriptions of a store.
-spec get_subscriptions(StoreId :: store_id()) -> answer(term()).
get_subscriptions(StoreId) ->
    ask(StoreId, {get_subscriptions, StoreId}).

%% @doc Returns the subscriptions of a store with their state.
-spec list_store_subscriptions(StoreId :: store_id()) -> answer(term()).
list_store_subscriptions(StoreId) ->
    ask(StoreId, {list_store_subscriptions, StoreId}).

%% @doc Returns the subscription of this name.
-spec get_subscription(StoreId :: store_id(), Name :: binary()) -> answer(term()).
get_subscription(StoreId, Name) ->
    ask(StoreId, {get_subscription, StoreId, Name}).

%% @doc Returns how many events a subscription is behind.
-spec subscription_lag(StoreId :: store_id(), Name :: binary()) -> answer(term()).
subscription_lag(StoreId, Name) ->
    ask(StoreId, {subscription_lag, StoreId, Name}).

%% @doc Creates or changes a subscription. The store itself sends `{events, Events}' to the
%% subscriber.
-spec save_subscription(StoreId :: store_id(), Type :: atom(), Selector :: term(),
                        Name :: binary(), StartFrom :: term(), Subscriber :: pid() | undefined) ->
          ok.
save_subscription(StoreId, Type, Selector, Name, StartFrom, Subscriber) ->
    tell(StoreId, {save_subscription, StoreId, Type, Selector, Name, StartFrom, Subscriber}).

%% @doc Removes a subscription.
-spec remove_subscription(StoreId :: store_id(), Type :: atom(), Selector :: term(),
                          Name :: binary()) -> ok.
remove_subscription(StoreId, Type, Selector, Name) ->
    tell(StoreId, {remove_subscription, StoreId, Type, Selector, Name}).

%% @doc Tells the store that a subscriber has dealt with an event.
-spec ack_event(StoreId :: store_id(), Name :: binary(), Subscriber :: pid(), Event :: term()) ->
          ok.
ack_event(StoreId, Name, Subscriber, Event) ->
    tell(StoreId, {ack_event, StoreId, Name, Subscriber, Event}).

%%% Snapshots

%% @doc Stores a snapshot of a stream at a version.
-spec record_snapshot(StoreId :: store_id(), SourceId :: term(), StreamId :: stream_id(),
                      Version :: version(), Record :: term()) -> ok.
record_snapshot(StoreId, SourceId, StreamId, Version, Record) ->
    tell(StoreId, {record_snapshot, StoreId, SourceId, StreamId, Version, Record}).

%% @doc Deletes a snapshot.
-spec delete_snapshot(StoreId :: store_id(), SourceId :: term(), StreamId :: stream_id(),
                      Version :: version()) -> ok.
delete_snapshot(StoreId, SourceId, StreamId, Version) ->
    tell(StoreId, {delete_snapshot, StoreId, SourceId, StreamId, Version}).

%% @doc Returns a snapshot.
-spec read_snapshot(StoreId :: store_id(), SourceId :: term(), StreamId :: stream_id(),
                    Version :: version()) -> answer(term()).
read_snapshot(StoreId, SourceId, StreamId, Version) ->
    ask(StoreId, {read_snapshot, StoreId, SourceId, StreamId, Version}).

%% @doc Returns the snapshots of a stream.
-spec list_snapshots(StoreId :: store_id(), SourceId :: term(), StreamId :: stream_id()) ->
          answer(term()).
list_snapshots(StoreId, SourceId, StreamId) ->
    ask(StoreId, {list_snapshots, StoreId, SourceId, StreamId}).

%% @doc Returns the snapshots of all streams of a store.
-spec list_all_snapshots(StoreId :: store_id()) -> answer(term()).
list_all_snapshots(StoreId) ->
    ask(StoreId, {list_all_snapshots, StoreId}).

%%% Reading by time

%% @doc Returns the events of a stream up to a time.
-spec read_until(StoreId :: store_id(), StreamId :: stream_id(), Timestamp :: integer()) ->
          answer(term()).
read_until(StoreId, StreamId, Timestamp) ->
    ask(StoreId, {read_until, StoreId, StreamId, Timestamp}).

%% @doc Returns the events of a stream up to a time, with options of the store.
-spec read_until(StoreId :: store_id(), StreamId :: stream_id(), Timestamp :: integer(),
                 Options :: map()) -> answer(term()).
read_until(StoreId, StreamId, Timestamp, Options) ->
    ask(StoreId, {read_until, StoreId, StreamId, Timestamp, Options}).

%% @doc Returns the events of a stream between two times.
-spec read_range(StoreId :: store_id(), StreamId :: stream_id(), From :: integer(),
                 To :: integer()) -> answer(term()).
read_range(StoreId, StreamId, From, To) ->
    ask(StoreId, {read_range, StoreId, StreamId, From, To}).

%% @doc Returns the events of a stream between two times, with options of the store.
-spec read_range(StoreId :: store_id(), StreamId :: stream_id(), From :: integer(),
                 To :: integer(), Options :: map()) -> answer(term()).
read_range(StoreId, StreamId, From, To, Options) ->
    ask(StoreId, {read_range, StoreId, StreamId, From, To, Options}).

%% @doc Returns the version that a stream had at a time.
-spec version_at(StoreId :: store_id(), StreamId :: stream_id(), Timestamp :: integer()) ->
          answer(version()).
version_at(StoreId, StreamId, Timestamp) ->
    ask(StoreId, {version_at, StoreId, StreamId, Timestamp}).

%%% Scavenging

%% @doc Removes old events of a stream.
-spec scavenge(StoreId :: store_id(), StreamId :: stream_id(), Options :: map()) -> answer(term()).
scavenge(StoreId, StreamId, Options) ->
    ask(StoreId, {scavenge, StoreId, StreamId, Options}).

%% @doc Removes old events of all streams whose names match a pattern.
-spec scavenge_matching(StoreId :: store_id(), Pattern :: binary(), Options :: map()) ->
          answer(term()).
scavenge_matching(StoreId, Pattern, Options) ->
    ask(StoreId, {scavenge_matching, StoreId, Pattern, Options}).

%% @doc Returns what {@link scavenge/3} would remove.
-spec scavenge_dry_run(StoreId :: store_id(), StreamId :: stream_id(), Options :: map()) ->
          answer(term()).
scavenge_dry_run(StoreId, StreamId, Options) ->
    ask(StoreId, {scavenge_dry_run, StoreId, StreamId, Options}).

%%% Causation

%% @doc Returns the events that an event has caused.
-spec get_effects(StoreId :: store_id(), EventId :: binary()) -> answer(term()).
get_effects(StoreId, EventId) ->
    ask(StoreId, {get_effects, StoreId, EventId}).

%% @doc Returns the event that has caused an event.
-spec get_cause(StoreId :: store_id(), EventId :: binary()) -> answer(term()).
get_cause(StoreId, EventId) ->
    ask(StoreId, {get_cause, StoreId, EventId}).

%% @doc Returns the events that led to an event, from the first cause on.
-spec get_causation_chain(StoreId :: store_id(), EventId :: binary()) -> answer(term()).
get_causation_chain(StoreId, EventId) ->
    ask(StoreId, {get_causation_chain, StoreId, EventId}).

%% @doc Returns the events of a correlation.
-spec get_correlated(StoreId :: store_id(), CorrelationId :: binary()) -> answer(term()).
get_correlated(StoreId, CorrelationId) ->
    ask(StoreId, {get_correlated, StoreId, CorrelationId}).

%% @doc Returns the graph of causes and effects around an event or a correlation.
-spec build_causation_graph(StoreId :: store_id(), Id :: binary()) -> answer(term()).
build_causation_graph(StoreId, Id) ->
    ask(StoreId, {build_causation_graph, StoreId, Id}).

%%% Schemas

%% @doc Returns the schemas of a store.
-spec list_schemas(StoreId :: store_id()) -> answer(term()).
list_schemas(StoreId) ->
    ask(StoreId, {list_schemas, StoreId}).

%% @doc Returns the schema of an event type.
-spec get_schema(StoreId :: store_id(), EventType :: binary()) -> answer(term()).
get_schema(StoreId, EventType) ->
    ask(StoreId, {get_schema, StoreId, EventType}).

%% @doc Returns the version of the schema of an event type.
-spec get_schema_version(StoreId :: store_id(), EventType :: binary()) -> answer(term()).
get_schema_version(StoreId, EventType) ->
    ask(StoreId, {get_schema_version, StoreId, EventType}).

%% @doc Returns the events in the form of the present schemas.
-spec upcast_events(StoreId :: store_id(), Events :: [term()]) -> answer(term()).
upcast_events(StoreId, Events) ->
    ask(StoreId, {upcast_events, StoreId, Events}).

%% @doc Registers a schema of an event type.
-spec register_schema(StoreId :: store_id(), EventType :: binary(), Schema :: term()) -> ok.
register_schema(StoreId, EventType, Schema) ->
    tell(StoreId, {register_schema, StoreId, EventType, Schema}).

%% @doc Removes the schema of an event type.
-spec unregister_schema(StoreId :: store_id(), EventType :: binary()) -> ok.
unregister_schema(StoreId, EventType) ->
    tell(StoreId, {unregister_schema, StoreId, EventType}).

%%% Links between streams

%% @doc Creates a link, a stream that is derived from others.
-spec create_link(StoreId :: store_id(), Spec :: map()) -> ok.
create_link(StoreId, Spec) ->
    tell(StoreId, {create_link, StoreId, Spec}).

%% @doc Deletes a link.
-spec delete_link(StoreId :: store_id(), Name :: binary()) -> ok.
delete_link(StoreId, Name) ->
    tell(StoreId, {delete_link, StoreId, Name}).

%% @doc Starts a link.
-spec start_link(StoreId :: store_id(), Name :: binary()) -> ok.
start_link(StoreId, Name) ->
    tell(StoreId, {start_link, StoreId, Name}).

%% @doc Stops a link.
-spec stop_link(StoreId :: store_id(), Name :: binary()) -> ok.
stop_link(StoreId, Name) ->
    tell(StoreId, {stop_link, StoreId, Name}).

%% @doc Returns the links of a store.
-spec list_links(StoreId :: store_id()) -> answer(term()).
list_links(StoreId) ->
    ask(StoreId, {list_links, StoreId}).

%% @doc Returns the definition of a link.
-spec get_link(StoreId :: store_id(), Name :: binary()) -> answer(term()).
get_link(StoreId, Name) ->
    ask(StoreId, {get_link, StoreId, Name}).

%% @doc Returns the state of a link.
-spec link_info(StoreId :: store_id(), Name :: binary()) -> answer(term()).
link_info(StoreId, Name) ->
    ask(StoreId, {link_info, StoreId, Name}).

%%% The store itself

%% @doc Returns the store's statistics.
-spec store_stats(StoreId :: store_id()) -> answer(term()).
store_stats(StoreId) ->
    ask(StoreId, {store_stats, StoreId}).

%% @doc Returns the event types of a store with the number of their events.
-spec event_type_summary(StoreId :: store_id()) -> answer(term()).
event_type_summary(StoreId) ->
    ask(StoreId, {event_type_summary, StoreId}).

%% @doc Returns how scarce memory is for the store.
-spec get_memory_level(StoreId :: store_id()) -> answer(term()).
get_memory_level(StoreId) ->
    ask(StoreId, {get_memory_level, StoreId}).

%% @doc Returns the memory that the store uses.
-spec get_memory_stats(StoreId :: store_id()) -> answer(term()).
get_memory_stats(StoreId) ->
    ask(StoreId, {get_memory_stats, StoreId}).

%% @doc Returns whether the nodes of the store's cluster agree.
-spec verify_cluster_consistency(StoreId :: store_id()) -> answer(term()).
verify_cluster_consistency(StoreId) ->
    ask(StoreId, {verify_cluster_consistency, StoreId}).

%% @doc Returns whether the store's cluster works, from what is known without asking all its
%% nodes.
-spec quick_health_check(StoreId :: store_id()) -> answer(term()).
quick_health_check(StoreId) ->
    ask(StoreId, {quick_health_check, StoreId}).

%% @doc Returns whether the nodes of the store's cluster agree about its members.
-spec verify_membership_consensus(StoreId :: store_id()) -> answer(term()).
verify_membership_consensus(StoreId) ->
    ask(StoreId, {verify_membership_consensus, StoreId}).

%% @doc Returns whether the Raft logs of the store's cluster agree.
-spec check_raft_log_consistency(StoreId :: store_id()) -> answer(term()).
check_raft_log_consistency(StoreId) ->
    ask(StoreId, {check_raft_log_consistency, StoreId}).
%% </operations>
