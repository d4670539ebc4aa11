%% @doc A program written for the original: a store with workers, and a client that calls every
%% function of the data API.
-module(lineage).

-include_lib("erl_esdb_gater/include/esdb_gater.hrl").
-include_lib("erl_esdb_gater/include/esdb_gater_types.hrl").
-include_lib("erl_esdb_gater/include/esdb_capability_types.hrl").
-include_lib("erl_esdb_gater/include/esdb_gater_telemetry.hrl").

-export([main/0, client/1]).

-define(API, esdb_gater_api).
-define(WORKERS, 3).
-define(WAIT_MS, 20000).

-spec main() -> no_return().
main() ->
    try
        headers(),
        {ok, _} = application:ensure_all_started(erl_esdb_gater),
        Store = lineage_store,
        {ok, Storage} = standin_store:start_link(Store),
        Workers = [begin {ok, Worker} = standin_worker:start_link(Store, Storage), Worker end
                   || _ <- lists:seq(1, ?WORKERS)],
        client(Store),
        registry(Store, Workers),
        modules(),
        own_channel()
    of
        ok -> io:format("passed~n"), halt(0)
    catch
        Class:Reason:Stack ->
            io:format("failed: ~tp~n", [{Class, Reason, Stack}]),
            halt(1)
    end.

%% @doc Drives the data API of a store that has workers and no events.
-spec client(atom()) -> ok.
client(Store) ->
    streams(Store),
    across(Store),
    by_time(Store),
    subscriptions(Store),
    snapshots(Store),
    causation(Store),
    schemas(Store),
    links(Store),
    scavenging(Store),
    the_store(Store).

%% Tuples as stores write them, and macros by their values.
headers() ->
    {event, <<"id">>, undefined, undefined, 3, undefined, undefined, undefined, undefined,
     undefined, <<"application/json">>, <<"application/json">>} =
        #event{event_id = <<"id">>, version = 3},
    {subscription, <<"id">>, stream, <<"s">>, <<"n">>, undefined, undefined, 1, undefined,
     undefined} =
        #subscription{id = <<"id">>, type = stream, selector = <<"s">>,
                      subscription_name = <<"n">>},
    {snapshot, <<"s">>, 3, d, undefined, undefined} =
        #snapshot{stream_id = <<"s">>, version = 3, data = d},
    {append_result, 1, 2, 3} = #append_result{version = 1, position = 2, count = 3},
    {-1, -2, -4} = {?NO_STREAM, ?ANY_VERSION, ?STREAM_EXISTS},
    {<<"application/json">>, <<"application/octet-stream">>} =
        {?CONTENT_TYPE_JSON, ?CONTENT_TYPE_BINARY},
    {retry_config, 1, 2, 3} = list_to_tuple(lists:sublist(tuple_to_list(
        #retry_config{base_delay_ms = 1, max_delay_ms = 2, max_retries = 3}), 4)),
    {worker_entry, s, n, Self, 1} =
        #worker_entry{store_id = s, node = n, pid = self(), registered_at = 1},
    Self = self(),
    {gater_config, s, undefined, 5} = #gater_config{store_id = s, pool_size = 5},
    {esdb_gater_registry, 5000, 10000} = {?GATER_RA_CLUSTER, ?DEFAULT_TIMEOUT, ?REGISTRY_TIMEOUT},
    {capability, <<"EdDSA">>, <<"UCAN">>, <<"i">>, <<"a">>, undefined, undefined, undefined,
     undefined, undefined, #{}, [], undefined} = #capability{iss = <<"i">>, aud = <<"a">>},
    {identity, <<"did">>, undefined, undefined} = #identity{did = <<"did">>},
    {verification_result, undefined, undefined, <<"r">>, undefined, undefined} =
        #verification_result{resource = <<"r">>},
    {<<"esdb://">>, 900, 86400, 60, <<16#ed, 16#01>>, $z, <<"did:key:">>} =
        {?ESDB_URI_SCHEME, ?DEFAULT_TOKEN_TTL_SECS, ?MAX_TOKEN_TTL_SECS, ?MIN_TOKEN_TTL_SECS,
         ?MULTICODEC_ED25519_PUB, ?MULTIBASE_BASE58BTC, ?DID_KEY_PREFIX},
    [<<"stream/append">>, <<"stream/read">>, <<"stream/subscribe">>, <<"stream/delete">>,
     <<"channel/publish">>, <<"channel/subscribe">>, <<"snapshot/write">>, <<"snapshot/read">>,
     <<"snapshot/delete">>, <<"subscription/create">>, <<"subscription/delete">>,
     <<"subscription/list">>, <<"*">>] =
        [?ACTION_STREAM_APPEND, ?ACTION_STREAM_READ, ?ACTION_STREAM_SUBSCRIBE,
         ?ACTION_STREAM_DELETE, ?ACTION_CHANNEL_PUBLISH, ?ACTION_CHANNEL_SUBSCRIBE,
         ?ACTION_SNAPSHOT_WRITE, ?ACTION_SNAPSHOT_READ, ?ACTION_SNAPSHOT_DELETE,
         ?ACTION_SUBSCRIPTION_CREATE, ?ACTION_SUBSCRIPTION_DELETE, ?ACTION_SUBSCRIPTION_LIST,
         ?ACTION_ADMIN_ALL],
    [esdb_gater, request, stop] = ?GATER_REQUEST_STOP,
    ok.

streams(Store) ->
    S = <<"user-1">>,
    false = ?API:has_events(Store),
    {ok, -1} = ?API:get_version(Store, S),
    {error, {stream_not_found, S}} = ?API:stream_forward(Store, S, 0, 10),
    {ok, 0} = ?API:append_events(Store, S, ?NO_STREAM, [created()]),
    {error, {wrong_expected_version, 0}} = ?API:append_events(Store, S, ?NO_STREAM, [created()]),
    {ok, 2} = ?API:append_events(Store, S, [renamed(1), renamed(2)]),
    {ok, 3} = ?API:append_events(Store, S, ?STREAM_EXISTS, [renamed(3)]),
    {ok, 4} = ?API:append_events(Store, S, 3, [renamed(4)]),
    true = ?API:has_events(Store),
    {ok, 4} = ?API:get_version(Store, S),
    {ok, [#event{version = 1}, #event{version = 2, data = #{name := 2}}]} =
        ?API:get_events(Store, S, 1, 2, forward),
    {ok, [#event{version = 4}, #event{version = 3}]} = ?API:get_events(Store, S, 4, 2, backward),
    {ok, [#event{version = 0}, #event{version = 1}]} = ?API:stream_forward(Store, S, 0, 2),
    {ok, [#event{version = 2}, #event{version = 1}]} = ?API:stream_backward(Store, S, 2, 2),
    {ok, #{count := 5}} = ?API:stream_info(Store, S),
    {ok, _} = ?API:append_events(Store, <<"gone">>, [created()]),
    {ok, [<<"gone">>, S]} = ?API:get_streams(Store),
    {ok, ok} = ?API:delete_stream(Store, <<"gone">>),
    {ok, [S]} = ?API:get_streams(Store),
    ok.

created() -> #{event_type => <<"created">>, data => #{}, tags => [<<"a">>]}.

renamed(Name) ->
    #{event_type => <<"renamed">>, data => #{name => Name}, tags => [<<"a">>, <<"b">>]}.

across(Store) ->
    {ok, [_, _]} = ?API:read_by_event_types(Store, [<<"renamed">>], 2),
    {ok, Any} = ?API:read_by_tags(Store, [<<"a">>, <<"b">>]),
    {ok, All} = ?API:read_by_tags(Store, [<<"a">>, <<"b">>], #{match => all}),
    {ok, [_]} = ?API:read_by_tags(Store, [<<"a">>], #{match => any, batch_size => 1}),
    {5, 4} = {length(Any), length(All)},
    {ok, [#event{version = 1}, #event{version = 2}]} = ?API:read_all_global(Store, 1, 2),
    ok.

by_time(Store) ->
    S = <<"clock">>,
    {ok, 3} = ?API:append_events(Store, S, [#{timestamp => T} || T <- [10, 20, 30, 40]]),
    {ok, [_, _]} = ?API:read_until(Store, S, 20),
    {ok, [_]} = ?API:read_until(Store, S, 20, #{limit => 1}),
    {ok, [#event{timestamp = 20}, #event{timestamp = 30}]} = ?API:read_range(Store, S, 15, 35),
    {ok, [#event{timestamp = 20}]} = ?API:read_range(Store, S, 15, 35, #{limit => 1}),
    {ok, 1} = ?API:version_at(Store, S, 25),
    ok.

subscriptions(Store) ->
    {S, Name} = {<<"watched">>, <<"watcher">>},
    ok = ?API:save_subscription(Store, stream, S, Name, 0, self()),
    until(fun() -> is_ok(?API:get_subscription(Store, Name)) end),
    {ok, 0} = ?API:append_events(Store, S, [created()]),
    Event = receive {events, [#event{stream_id = S} = E]} -> E
            after ?WAIT_MS -> error(no_event)
            end,
    {ok, 1} = ?API:subscription_lag(Store, Name),
    ok = ?API:ack_event(Store, Name, self(), Event),
    until(fun() -> ?API:subscription_lag(Store, Name) =:= {ok, 0} end),
    Self = self(),
    {ok, [#subscription{subscription_name = Name, subscriber_pid = Self}]} =
        ?API:get_subscriptions(Store),
    {ok, [_]} = ?API:list_store_subscriptions(Store),
    ok = ?API:remove_subscription(Store, stream, S, Name),
    until(fun() -> ?API:get_subscriptions(Store) =:= {ok, []} end),
    {error, {subscription_not_found, Name}} = ?API:subscription_lag(Store, Name),
    %% Nobody listens.
    ok = ?API:save_subscription(Store, by_stream, S, <<"idle">>, 0, undefined),
    until(fun() -> is_ok(?API:get_subscription(Store, <<"idle">>)) end).

snapshots(Store) ->
    {Source, S} = {<<"users">>, <<"user-1">>},
    ok = ?API:record_snapshot(Store, Source, S, 2, #{name => 2}),
    ok = ?API:record_snapshot(Store, Source, S, 4, #{name => 4}),
    until(fun() -> is_ok(?API:read_snapshot(Store, Source, S, 4)) end),
    until(fun() -> is_ok(?API:read_snapshot(Store, Source, S, 2)) end),
    {ok, #snapshot{version = 4, data = #{name := 4}}} = ?API:read_snapshot(Store, Source, S, 4),
    {ok, [_, _]} = ?API:list_snapshots(Store, Source, S),
    {ok, [_, _]} = ?API:list_all_snapshots(Store),
    ok = ?API:delete_snapshot(Store, Source, S, 2),
    until(fun() -> length(element(2, ?API:list_all_snapshots(Store))) =:= 1 end),
    {error, not_found} = ?API:read_snapshot(Store, Source, S, 2),
    ok.

causation(Store) ->
    Of = fun(Id, Metadata) ->
             #{event_id => Id, metadata => Metadata#{correlation_id => <<"c">>}}
         end,
    {ok, _} = ?API:append_events(Store, <<"causes">>,
                                 [Of(<<"e1">>, #{}), Of(<<"e2">>, #{causation_id => <<"e1">>}),
                                  Of(<<"e3">>, #{causation_id => <<"e2">>})]),
    {ok, [#event{event_id = <<"e2">>}]} = ?API:get_effects(Store, <<"e1">>),
    {ok, #event{event_id = <<"e1">>}} = ?API:get_cause(Store, <<"e2">>),
    {error, not_found} = ?API:get_cause(Store, <<"e1">>),
    {ok, Chain} = ?API:get_causation_chain(Store, <<"e3">>),
    [<<"e1">>, <<"e2">>, <<"e3">>] = [Id || #event{event_id = Id} <- Chain],
    {ok, [_, _, _]} = ?API:get_correlated(Store, <<"c">>),
    {ok, #{edges := [{<<"e1">>, <<"e2">>}]}} = ?API:build_causation_graph(Store, <<"e1">>),
    ok.

schemas(Store) ->
    T = <<"renamed">>,
    ok = ?API:register_schema(Store, T, #{version => 2}),
    until(fun() -> is_ok(?API:get_schema(Store, T)) end),
    {ok, 2} = ?API:get_schema_version(Store, T),
    {ok, [#{version := 2}]} = ?API:list_schemas(Store),
    {ok, [#event{version = 1}]} = ?API:upcast_events(Store, [#event{version = 1}]),
    ok = ?API:unregister_schema(Store, T),
    until(fun() -> ?API:list_schemas(Store) =:= {ok, []} end).

links(Store) ->
    L = <<"all-users">>,
    ok = ?API:create_link(Store, #{name => L}),
    until(fun() -> is_ok(?API:get_link(Store, L)) end),
    {ok, stopped} = ?API:link_info(Store, L),
    ok = ?API:start_link(Store, L),
    until(fun() -> ?API:link_info(Store, L) =:= {ok, running} end),
    ok = ?API:stop_link(Store, L),
    until(fun() -> ?API:link_info(Store, L) =:= {ok, stopped} end),
    {ok, [#{name := L}]} = ?API:list_links(Store),
    ok = ?API:delete_link(Store, L),
    until(fun() -> ?API:list_links(Store) =:= {ok, []} end).

scavenging(Store) ->
    {ok, 3} = ?API:scavenge_dry_run(Store, <<"clock">>, #{keep => 1}),
    {ok, 3} = ?API:scavenge(Store, <<"clock">>, #{keep => 1}),
    {ok, 4} = ?API:scavenge_matching(Store, <<"user-">>, #{keep => 1}),
    {ok, [#event{version = 4}]} = ?API:stream_forward(Store, <<"user-1">>, 0, 10),
    ok.

the_store(Store) ->
    {ok, #{events := N}} = ?API:store_stats(Store),
    {ok, Types} = ?API:event_type_summary(Store),
    N = lists:sum(maps:values(Types)),
    {ok, normal} = ?API:get_memory_level(Store),
    {ok, #{words := _}} = ?API:get_memory_stats(Store),
    {ok, #{consistent := true}} = ?API:verify_cluster_consistency(Store),
    {ok, healthy} = ?API:quick_health_check(Store),
    {ok, #{members := [_ | _]}} = ?API:verify_membership_consensus(Store),
    {ok, consistent} = ?API:check_raft_log_consistency(Store),
    {ok, [Store]} = ?API:list_stores(),
    ok.

registry(Store, Workers) ->
    {ok, #{status := healthy, stores := #{Store := ?WORKERS}, total_workers := ?WORKERS}} =
        ?API:health(),
    {ok, [#worker_entry{store_id = Store, node = Node, pid = First} | _] = Entries} =
        esdb_gater_worker_registry:get_workers(Store),
    Node = node(),
    Workers = [Pid || #worker_entry{pid = Pid} <- Entries],
    {ok, #{Store := Entries}} = esdb_gater_worker_registry:get_all_workers(),
    %% A worker takes itself off when it ends.
    ok = gen_server:stop(First),
    until(fun() -> length(element(2, ?API:get_workers(Store))) =:= ?WORKERS - 1 end),
    ok = ?API:register_worker(by_itself),
    {ok, [_]} = ?API:get_workers(by_itself),
    ok = ?API:unregister_worker(by_itself),
    {ok, []} = ?API:get_workers(by_itself),
    ok.

modules() ->
    {critical, infinity, true} = {esdb_channel_alerts:priority(), esdb_channel_alerts:max_rate(),
                                  esdb_channel_alerts:requires_signature()},
    {low, 1000, false} = {esdb_channel_logging:priority(), esdb_channel_logging:max_rate(),
                          esdb_channel_logging:requires_signature()},
    [_ | _] = esdb_gater_cluster_monitor:get_nodes(),
    true = esdb_gater_cluster_monitor:is_healthy(),
    ok.

own_channel() ->
    {ok, Channel} = esdb_channel_server:start_link(lineage_channel, #{name => own}),
    {error, closed} = esdb_channel_server:subscribe(own, <<"closed">>, self()),
    ok = esdb_channel_server:subscribe(own, <<"open">>, self()),
    {error, not_a_map} = esdb_channel_server:publish(own, <<"open">>, refused),
    ok = esdb_channel_server:publish(own, <<"open">>, #{a => 1}),
    receive {channel_message, own, <<"open">>, Message} -> #{a := 1} = Message
    after ?WAIT_MS -> error(no_message)
    end,
    gen_server:stop(Channel).

is_ok({ok, _}) -> true;
is_ok({error, _}) -> false.

until(Condition) -> until(Condition, erlang:monotonic_time(millisecond) + ?WAIT_MS).

until(Condition, Deadline) ->
    case {Condition(), erlang:monotonic_time(millisecond) > Deadline} of
        {true, _} -> ok;
        {false, false} -> timer:sleep(10), until(Condition, Deadline);
        {false, true} -> error({never_happened, Condition})
    end.
