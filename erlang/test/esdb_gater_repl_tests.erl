-module(esdb_gater_repl_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../include/esdb_gater.hrl").

-define(S, repl_store).

session_test_() ->
    {setup, fun store/0, fun stop/1,
     fun(_) ->
         [{"the only store is chosen", fun the_only_store/0},
          {"every command shows what the store answers", fun every_command/0},
          {"what goes wrong is said, with what to do", fun what_goes_wrong/0},
          {"long answers come in pages", fun pages/0},
          {"commands, stores and streams are completed", fun completion/0},
          {"the end of the input ends the session", fun the_end/0}]
     end}.

the_only_store() ->
    shows(session(["stores\n", "quit\n"]), "esdb repl_store> .*repl_store").

shows(Text, Expected) ->
    ?assertMatch({match, _}, re:run(Text, Expected, [dotall, unicode]), {Text, Expected}).

every_command() ->
    [shows(session([Line ++ "\n", "quit\n"]), Expected)
     || {Line, Expected} <-
            [{"help", "read STREAM.*quit"},
             {"streams", "user-1.*with space"},
             {"read user-1", "0  2023-11-14T22:13:20.000Z  created  e0 .*7  .*e7"},
             {"read user-1 5", "5  .*e5.*e6"},
             {"read \"with space\" 0 1", "created  e0"},
             {"version user-1", "> .*7"},
             {"until user-1 1700000000000", "created"},
             {"range user-1 2023-11-14T00:00:00Z 2023-11-15T00:00:00Z", "created"},
             {"effects e1", "e2"},
             {"cause e2", "e1"},
             {"chain e2", "e1.*e2"},
             {"graph e1", "around e1.*e1 -> e2"},
             {"dot e1", "digraph causation.*\"e1\" -> \"e2\""},
             {"schemas", "schema_of_a_type"},
             {"subscriptions", "watcher"},
             {"memory", "normal.*words"},
             {"health", "total_workers"},
             {"use repl_store", "esdb repl_store>"}]].

what_goes_wrong() ->
    [shows(session(Store, [Line ++ "\n", "quit\n"]), Expected)
     || {Store, Line, Expected} <-
            [{?S, "nonsense", "no command nonsense; `help'"},
             {?S, "read", "usage: read STREAM"},
             {?S, "read user-1 x", "usage: read STREAM"},
             {?S, "until user-1 yesterday", "usage: until"},
             {?S, "read nothing", "stream_not_found"},
             {?S, "use other", "no store other has a worker"},
             {none, "streams", "`use STORE' chooses one"},
             {?S, "", "esdb repl_store> .*esdb repl_store> "}]].

pages() ->
    Shown = session(?S, 5, ["read user-1\n", "q\n", "quit\n"]),
    shows(Shown, "e0.*e2.*-- 5 more lines"),
    ?assertEqual(nomatch, re:run(Shown, "e5")),
    All = session(?S, 5, ["read user-1\n", "\n", "\n", "quit\n"]),
    shows(All, "e0.*-- 5 more.*e5.*-- 2 more.*e7").

completion() ->
    Complete = fun(Line) -> esdb_gater_repl:complete(lists:reverse(Line), ?S) end,
    ?assertEqual({yes, "", ["stores ", "streams "]}, Complete("st")),
    ?assertEqual({yes, "eams ", []}, Complete("str")),
    ?assertEqual({yes, "store", []}, Complete("use repl_")),
    ?assertEqual({yes, "er-1", []}, Complete("read us")),
    ?assertEqual({no, "", []}, Complete("read zzz")),
    ?assertEqual({no, "", []}, Complete("zzz")).

the_end() ->
    shows(session([]), "quit' leaves").

a_graph_is_drawn_test() ->
    Empty = esdb_gater_repl:graph_to_dot(#{nodes => [], edges => [], root => <<"x">>}),
    ?assertMatch(<<"digraph causation", _/binary>>, Empty),
    Dot = esdb_gater_repl:graph_to_dot(
            #{root => <<"an-id-that-is-rather-long">>,
              nodes => [#{event_id => <<"an-id-that-is-rather-long">>,
                          event_type => <<"a \"quoted\" type">>}],
              edges => [{<<"an-id-that-is-rather-long">>, <<"b">>}]}),
    ?assertNotEqual(nomatch, binary:match(Dot, <<"a \\\"quoted\\\" type an-id-that-is-ra...">>)),
    ?assertNotEqual(nomatch, binary:match(Dot, <<"\"an-id-that-is-rather-long\" -> \"b\"">>)).

words_may_be_quoted_test() ->
    ?assertEqual(["read", "a b", "1"], esdb_gater_repl:words("read \"a b\" 1\n")),
    ?assertEqual([], esdb_gater_repl:words("  \n")).

%%% A session with a terminal that has been told what to answer

session(Lines) -> session(default, Lines).

session(Store, Lines) -> session(Store, 1000, Lines).

session(Store, Rows, Lines) ->
    Terminal = spawn_link(fun() -> terminal(Rows, Lines, []) end),
    {Pid, Ref} = spawn_monitor(fun() ->
        group_leader(Terminal, self()),
        ok = case Store of
                 default -> esdb_gater_repl:start();
                 _ -> esdb_gater_repl:start(Store)
             end
    end),
    receive {'DOWN', Ref, process, Pid, Reason} -> ?assertEqual(normal, Reason) end,
    Terminal ! {shown, self()},
    receive {shown, Text} -> Text end.

terminal(Rows, Lines, Shown) ->
    receive
        {shown, Pid} ->
            Pid ! {shown, unicode:characters_to_binary(lists:reverse(Shown))};
        {io_request, From, As, Request} ->
            {Reply, Left, More} = io_reply(Request, Rows, Lines),
            From ! {io_reply, As, Reply},
            terminal(Rows, Left, More ++ Shown)
    end.

io_reply({put_chars, _, Text}, _Rows, Lines) -> {ok, Lines, [Text]};
io_reply({put_chars, _, M, F, A}, _Rows, Lines) -> {ok, Lines, [apply(M, F, A)]};
io_reply({get_line, _, Prompt}, _Rows, []) -> {eof, [], [Prompt]};
io_reply({get_line, _, Prompt}, _Rows, [Line | Left]) -> {Line, Left, [Line, Prompt]};
io_reply({get_geometry, rows}, Rows, Lines) -> {Rows, Lines, []};
io_reply(getopts, _Rows, Lines) -> {[{expand_fun, fun(_) -> {no, "", []} end}], Lines, []};
io_reply({setopts, [{expand_fun, Fun}]}, _Rows, Lines) when is_function(Fun, 1) -> {ok, Lines, []}.

%%% A store with one worker

store() ->
    {ok, Tables} = esdb_gater_tables:start_link(esdb_gater_tables, esdb_gater_heir),
    true = unlink(Tables),
    Worker = spawn(fun serve/0),
    true = esdb_gater_workers:add(?S, Worker),
    Worker.

stop(Worker) ->
    exit(Worker, kill),
    ok = gen_server:stop(esdb_gater_tables).

serve() ->
    receive {'$gen_call', From, Request} -> gen_server:reply(From, answer(Request)), serve() end.

answer({get_streams, _}) -> {ok, [<<"user-1">>, <<"with space">>]};
answer({stream_forward, _, <<"nothing">>, _, _}) -> {error, {stream_not_found, <<"nothing">>}};
answer({stream_forward, _, _, From, Count}) ->
    {ok, [event(V) || V <- lists:seq(From, min(7, From + Count - 1))]};
answer({get_version, _, _}) -> 7;
answer({read_until, _, _, 1700000000000}) -> {ok, [event(0)]};
answer({read_range, _, _, 1699920000000, 1700006400000}) -> {ok, [event(0)]};
answer({get_effects, _, <<"e1">>}) -> {ok, [event(2)]};
answer({get_cause, _, <<"e2">>}) -> {ok, event(1)};
answer({get_causation_chain, _, <<"e2">>}) -> {ok, [event(1), event(2)]};
answer({build_causation_graph, _, Id}) ->
    {ok, #{root => Id, nodes => [event(1), event(2)], edges => [{<<"e1">>, <<"e2">>}]}};
answer({list_schemas, _}) -> {ok, [#{name => schema_of_a_type}]};
answer({get_subscriptions, _}) -> {ok, [#subscription{subscription_name = <<"watcher">>}]};
answer({get_memory_level, _}) -> {ok, normal};
answer({get_memory_stats, _}) -> {ok, #{words => 7}}.

event(V) ->
    #event{event_id = <<"e", (integer_to_binary(V))/binary>>, event_type = <<"created">>,
           version = V, timestamp = 1700000000000, data = #{n => V}}.
