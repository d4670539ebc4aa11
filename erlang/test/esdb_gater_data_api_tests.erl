%%% What each function of the data API asks a worker, and what it makes of the answer. The table
%%% here is written down a second time, from what stores expect, and not derived from the other.
-module(esdb_gater_data_api_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../include/esdb_gater.hrl").

-define(API, esdb_gater_api).
-define(S, data_api_store).

%% {call | cast, Function, Arguments after the store, Request after its name and the store}.
operations() ->
    Bare = [{call, Name, [], []}
            || Name <- [get_streams, store_stats, list_all_snapshots, list_store_subscriptions,
                        event_type_summary, get_subscriptions, list_schemas, list_links,
                        get_memory_level, get_memory_stats, verify_cluster_consistency,
                        quick_health_check, verify_membership_consensus,
                        check_raft_log_consistency]],
    Same = [{call, append_events, [<<"s">>, [#{a => 1}]]},
            {call, append_events, [<<"s">>, 7, [#{a => 1}]]},
            {call, append_events, [<<"s">>, ?NO_STREAM, [#event{event_id = <<"e">>}]]},
            {call, get_events, [<<"s">>, 0, 10, forward]},
            {call, get_events, [<<"s">>, 9, 10, backward]},
            {call, stream_forward, [<<"s">>, 0, 10]},
            {call, stream_backward, [<<"s">>, 9, 10]},
            {call, get_version, [<<"s">>]},
            {call, stream_info, [<<"s">>]},
            {call, delete_stream, [<<"s">>]},
            {call, read_by_event_types, [[<<"t">>], 5]},
            {call, read_all_global, [0, 100]},
            {call, get_subscription, [<<"n">>]},
            {call, subscription_lag, [<<"n">>]},
            {cast, save_subscription, [stream, <<"s">>, <<"n">>, 0, undefined]},
            {cast, remove_subscription, [by_stream, <<"s">>, <<"n">>]},
            {cast, ack_event, [<<"n">>, self(), #event{version = 3}]},
            {cast, record_snapshot, [<<"u">>, <<"s">>, 3, #{state => 1}]},
            {cast, delete_snapshot, [<<"u">>, <<"s">>, 3]},
            {call, read_snapshot, [<<"u">>, <<"s">>, 3]},
            {call, list_snapshots, [<<"u">>, <<"s">>]},
            {call, read_until, [<<"s">>, 17]},
            {call, read_until, [<<"s">>, 17, #{limit => 2}]},
            {call, read_range, [<<"s">>, 17, 18]},
            {call, read_range, [<<"s">>, 17, 18, #{limit => 2}]},
            {call, version_at, [<<"s">>, 17]},
            {call, scavenge, [<<"s">>, #{keep => 1}]},
            {call, scavenge_matching, [<<"s*">>, #{keep => 1}]},
            {call, scavenge_dry_run, [<<"s">>, #{keep => 1}]},
            {call, get_effects, [<<"id">>]},
            {call, get_cause, [<<"id">>]},
            {call, get_causation_chain, [<<"id">>]},
            {call, get_correlated, [<<"id">>]},
            {call, build_causation_graph, [<<"id">>]},
            {call, get_schema, [<<"t">>]},
            {call, get_schema_version, [<<"t">>]},
            {call, upcast_events, [[#event{}]]},
            {cast, register_schema, [<<"t">>, #{v => 1}]},
            {cast, unregister_schema, [<<"t">>]},
            {cast, create_link, [#{name => <<"l">>}]},
            {cast, delete_link, [<<"l">>]},
            {cast, start_link, [<<"l">>]},
            {cast, stop_link, [<<"l">>]},
            {call, get_link, [<<"l">>]},
            {call, link_info, [<<"l">>]}],
    Bare ++ [{Kind, Name, Arguments, Arguments} || {Kind, Name, Arguments} <- Same]
        ++ [{call, read_by_tags, [[<<"x">>]], [[<<"x">>], any, 1000]},
            {call, read_by_tags, [[<<"x">>], #{match => all}], [[<<"x">>], all, 1000]},
            {call, read_by_tags, [[<<"x">>], #{match => any, batch_size => 7}],
             [[<<"x">>], any, 7]},
            {call, append_events, [<<"s">>, 7, [], #{ambiguous => return}], [<<"s">>, 7, []]}].

data_api_test_() ->
    {setup, fun worker/0, fun stop/1,
     fun(Worker) ->
         [{atom_to_list(Name), fun() -> sends(Worker, Row) end}
          || {_, Name, _, _} = Row <- operations()]
         ++ [{"every function of the data API is in this table", fun all_are_here/0},
             {"answers keep their shape", fun() -> shapes(Worker) end},
             {"has_events returns a boolean", fun() -> has_events(Worker) end},
             {"list_stores asks a worker of any store", fun() -> list_stores(Worker) end},
             {"events of a request name the operation", fun() -> named(Worker) end},
             {"a worker is an entry with its time", fun() -> entry(Worker) end},
             {"health counts the workers of stores", fun() -> health(Worker) end},
             {"a time-out is given back where the caller says so", fun() -> ambiguous(Worker) end}]
     end}.

%% Without the application: nothing is raised, and what does not wait is `ok'.
without_workers_test() ->
    ok = ?API:ack_event(nobody, <<"n">>, self(), #event{}),
    ok = ?API:register_schema(nobody, <<"t">>, #{}),
    {error, no_workers} = ?API:list_stores(),
    {ok, #{status := degraded, reason := no_gateway, stores := Stores, total_workers := 0}} =
        ?API:health(),
    ?assertEqual(#{}, Stores),
    Node = node(),
    ?assertEqual([Node], esdb_gater_cluster_monitor:get_nodes() -- nodes()),
    ?assertNot(esdb_gater_cluster_monitor:is_healthy()).

%%% The assertions

sends(Worker, {Kind, Name, Arguments, After}) ->
    Worker ! {answer, {ok, Name}},
    Expected = list_to_tuple([Name, ?S | After]),
    case Kind of
        call -> ?assertEqual({ok, Name}, apply(?API, Name, [?S | Arguments]));
        cast -> ?assertEqual(ok, apply(?API, Name, [?S | Arguments]))
    end,
    ?assertEqual({Kind, Expected}, asked(Worker)).

all_are_here() ->
    Others = [execute, cast, register_worker, unregister_worker, get_workers, get_local_workers,
              execute_as, cast_as, module_info, has_events, list_stores, health],
    Exported = [Function || {Name, _} = Function <- ?API:module_info(exports),
                            not lists:member(Name, Others)],
    Here = [{Name, length(Arguments) + 1} || {_, Name, Arguments, _} <- operations()],
    ?assertEqual(lists:usort(Exported), lists:usort(Here)),
    Specified = [Function || {Function, _} <- specs()],
    ?assertEqual([], Exported -- Specified).

specs() ->
    {ok, {_, [{abstract_code, {_, Forms}}]}} =
        beam_lib:chunks(code:which(?API), [abstract_code]),
    [Spec || {attribute, _, spec, Spec} <- Forms].

shapes(Worker) ->
    Once = fun(Answer) -> Worker ! {answer, Answer}, ?API:get_version(?S, <<"s">>) end,
    ?assertEqual({ok, -1}, Once(-1)),
    ?assertEqual({ok, 4}, Once({ok, 4})),
    ?assertEqual({ok, ok}, Once(ok)),
    ?assertEqual({error, {stream_not_found, <<"s">>}}, Once({error, {stream_not_found, <<"s">>}})),
    ?assertEqual({error, {wrong_expected_version, 3}}, Once({error, {wrong_expected_version, 3}})).

has_events(Worker) ->
    Once = fun(Answer) -> Worker ! {answer, Answer}, ?API:has_events(?S) end,
    ?assertEqual(true, Once(true)),
    ?assertEqual(false, Once(false)),
    ?assertEqual(false, Once({ok, false})),
    ?assertEqual(true, Once({ok, 17})),
    ?assertEqual(false, Once({error, not_found})),
    ?assertEqual({call, {has_events, ?S}}, asked(Worker)).

list_stores(Worker) ->
    Worker ! {answer, {ok, [?S]}},
    ?assertEqual({ok, [?S]}, ?API:list_stores()),
    ?assertEqual({call, {list_stores}}, asked(Worker)).

named(Worker) ->
    Self = self(),
    Tell = fun(Event, _, Meta, _) -> Self ! {Event, Meta} end,
    ok = esdb_gater_telemetry:attach(named, Tell, none),
    Worker ! {answer, {ok, 1}},
    {ok, 1} = ?API:get_version(?S, <<"s">>),
    ok = ?API:ack_event(?S, <<"n">>, self(), e),
    ok = esdb_gater_telemetry:detach(named),
    [receive
         {[esdb_gater, request, stop],
          #{store_id := ?S, request_type := Type, result := success}} -> ok
     after 0 -> error({no_event, Type})
     end || Type <- [get_version, ack_event]].

entry(Worker) ->
    {ok, Since} = esdb_gater_workers:since(?S, Worker),
    Node = node(),
    Entry = #worker_entry{store_id = ?S, node = Node, pid = Worker, registered_at = Since},
    ?assertEqual({ok, [Entry]}, esdb_gater_worker_registry:get_workers(?S)),
    ?assertEqual({ok, #{?S => [Entry]}}, esdb_gater_worker_registry:get_all_workers()),
    ?assertEqual({ok, []}, esdb_gater_worker_registry:get_workers(no_such_store)),
    ?assert(abs(erlang:system_time(millisecond) - Since) < 600000).

health(_Worker) ->
    Node = node(),
    {ok, Health} = ?API:health(),
    ?assertMatch(#{status := healthy, stores := #{?S := 1}, total_workers := 1, node := Node,
                   timestamp := _}, Health),
    ok = esdb_gater_shared_state:unset(gateway),
    ?assertMatch({ok, #{status := degraded, reason := no_gateway, total_workers := 1}},
                 ?API:health()),
    ok = esdb_gater_shared_state:set(gateway, node()).

ambiguous(Worker) ->
    Worker ! {answer, {error, timeout}},
    ?assertEqual({error, timeout},
                 ?API:append_events(?S, <<"s">>, ?ANY_VERSION, [], #{ambiguous => return})),
    ?assertEqual({call, {append_events, ?S, <<"s">>, ?ANY_VERSION, []}}, asked(Worker)),
    Twice = esdb_gater_retry:new_config(0, 0, 2),
    ?assertEqual({error, {retries_exhausted, timeout}},
                 ?API:append_events(?S, <<"s">>, ?ANY_VERSION, [], Twice)).

%%% A worker that gives one answer and tells what it was asked last

worker() ->
    {ok, Tables} = esdb_gater_tables:start_link(esdb_gater_tables, esdb_gater_heir),
    true = unlink(Tables),
    ok = esdb_gater_shared_state:set(mirror, ready),
    ok = esdb_gater_shared_state:set(gateway, node()),
    Worker = spawn(fun() -> loop(none, none) end),
    true = esdb_gater_workers:add(?S, Worker),
    Worker.

stop(Worker) ->
    exit(Worker, kill),
    ok = gen_server:stop(esdb_gater_tables).

loop(Answer, Asked) ->
    receive
        {answer, Next} -> loop(Next, Asked);
        {asked, Pid} -> Pid ! {asked_for, Asked}, loop(Answer, Asked);
        {'$gen_call', From, Request} ->
            gen_server:reply(From, Answer),
            loop(Answer, {call, Request});
        {'$gen_cast', Request} -> loop(Answer, {cast, Request})
    end.

asked(Worker) ->
    Worker ! {asked, self()},
    receive {asked_for, Asked} -> Asked after 5000 -> error(no_answer) end.
