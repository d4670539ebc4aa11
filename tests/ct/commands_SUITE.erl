%% @doc The commands of an operator against a real gateway and real nodes, and what a gateway is run
%% with: the unit of systemd, the alert rules, the dashboard.
-module(commands_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([lists_show_what_the_gateway_holds/1, lists_are_sorted_and_limited/1,
         the_status_fits_on_one_screen/1, published_messages_arrive_as_they_were_typed/1,
         a_refused_message_names_the_next_step/1, messages_are_shown_counted_and_sampled/1,
         a_benchmark_measures_both_ways/1, checks_answer_by_their_exit_code/1,
         a_command_without_a_gateway_points_to_the_doctor/1, a_terminal_gets_lines_and_colours/1,
         a_full_screen_ends_with_a_key/1, generated_files_can_be_used/1,
         orders_take_the_key_of_the_gateway/1, a_service_manager_is_told/1,
         the_unit_of_systemd_is_valid/1, alert_rules_are_valid/1, alerts_point_into_the_runbook/1,
         alerts_and_dashboard_use_metrics_that_there_are/1]).

-define(TOPIC, <<"orders">>).

suite() -> [{timetrap, {minutes, 3}}].

%% The gateway ends with the orders.
all() ->
    [lists_show_what_the_gateway_holds, lists_are_sorted_and_limited, the_status_fits_on_one_screen,
     published_messages_arrive_as_they_were_typed, a_refused_message_names_the_next_step,
     messages_are_shown_counted_and_sampled, a_benchmark_measures_both_ways,
     checks_answer_by_their_exit_code, a_command_without_a_gateway_points_to_the_doctor,
     a_terminal_gets_lines_and_colours, a_full_screen_ends_with_a_key, generated_files_can_be_used,
     orders_take_the_key_of_the_gateway, a_service_manager_is_told, the_unit_of_systemd_is_valid,
     alert_rules_are_valid, alerts_point_into_the_runbook,
     alerts_and_dashboard_use_metrics_that_there_are].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_SECRET", "shared"}],
                                             config => "[channels.rare]\nmax_rate = 1\n"}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

%%% Looking

lists_show_what_the_gateway_holds(Config) ->
    #{node := Node} = Beam = value(beam, Config),
    {_, Pid} = gater_harness:agent(Beam),
    ok = call(Config, esdb_gater_worker_registry, {register, my_store, Pid}),
    ok = call(Config, esdb_channel_events, {subscribe, ?TOPIC, Pid}),
    Local = list_to_binary(gater_harness:on(Beam, fun() -> pid_to_list(Pid) end)),
    Name = atom_to_binary(Node),
    [?assertMatch({0, #{<<"total">> := Total, <<"items">> := Items}}
                      when Total >= length(Items) andalso Items =/= [], json(Config, Arguments),
                  Arguments)
     || Arguments <- [["peers"], ["stores"], ["workers"], ["channels"],
                      ["subscribers", "esdb_channel_events", "orders"]]],
    {0, #{<<"items">> := [Worker]}} = json(Config, ["workers", "my_store"]),
    ?assertMatch(#{<<"store">> := <<"my_store">>, <<"node">> := Name, <<"pid">> := Local}, Worker),
    {0, #{<<"items">> := [Subscriber]}} = json(Config, ["subscribers", "esdb_channel_events", "orders"]),
    ?assertMatch(#{<<"node">> := Name, <<"pid">> := Local, <<"connected">> := true}, Subscriber),
    ?assertMatch({0, []}, json(Config, ["alarms"])),
    ?assertMatch({0, #{<<"items">> := []}}, json(Config, ["slow"])),
    %% For people the same, in columns.
    Printed = text(Config, ["workers", "my_store"]),
    ?assertMatch({match, _}, re:run(Printed, ["^store +node +pid.*\nmy_store +", Name, " +", Local])),
    ?assertEqual(<<"every node keeps up\n">>, text(Config, ["slow"])),
    ?assertEqual(<<"nobody is subscribed\n">>, text(Config, ["subscribers", "esdb_channel_events", "none"])),
    %% Whoever is refused is listed with the stage and the reason.
    #{port := Port} = value(gateway, Config),
    {error, _} = gater_wire:connect(Port, "stranger@127.0.0.1", "wrong"),
    gater_harness:until(fun() ->
        {0, #{<<"items">> := Lost}} = json(Config, ["lost"]),
        [ok || #{<<"node">> := <<"stranger@127.0.0.1">>, <<"stage">> := <<"authentication">>} <- Lost] =/= []
    end),
    ?assertMatch({match, _}, re:run(text(Config, ["lost"]), "stranger@127.0.0.1 .*authentication .*cookie")).

lists_are_sorted_and_limited(Config) ->
    {_, Pid} = gater_harness:agent(value(beam, Config)),
    [ok = call(Config, esdb_gater_worker_registry, {register, Store, Pid}) || Store <- [b_store, a_store]],
    {0, #{<<"items">> := Stores}} = json(Config, ["stores", "--sort", "name", "--limit", "2"]),
    ?assertEqual([<<"a_store">>, <<"b_store">>], [Store || #{<<"store">> := Store} <- Stores]),
    ?assertMatch({match, _}, re:run(text(Config, ["channels", "--limit", "3"]), "and [0-9]+ more: --limit")),
    {64, <<>>, Complaint} = run(Config, ["stores", "--sort", "colour"]),
    ?assertMatch({match, _}, re:run(Complaint, "possible values: relevance, name")).

the_status_fits_on_one_screen(Config) ->
    #{node := Gater} = value(gateway, Config),
    Screen = text(Config, ["status"]),
    Lines = binary:split(Screen, <<"\n">>, [global, trim_all]),
    ?assert(length(Lines) =< 24, Screen),
    [?assertMatch({match, _}, re:run(Screen, Pattern, [multiline]), {Pattern, Screen})
     || Pattern <- ["^node +" ++ atom_to_list(Gater), "^version ", "^uptime ", "^ready +yes$",
                    "^cluster +healthy$", "^quorum +1 of 1", "^peers ", "^rates +published",
                    "^disk +[0-9.]+ [KMGT]iB of", "^alarms +none$"]],
    {0, #{<<"status">> := #{<<"ready">> := true}, <<"alarms">> := []}} = json(Config, ["status"]).

%%% Publishing and watching

published_messages_arrive_as_they_were_typed(Config) ->
    Agent = {_, Pid} = gater_harness:agent(value(beam, Config)),
    [ok = call(Config, Channel, {subscribe, <<"typed">>, Pid})
     || Channel <- [esdb_channel_events, esdb_channel_security]],
    ?assertEqual(<<"published\n">>, text(Config, ["pub", "esdb_channel_events", "typed", "{\"id\": 1, \"tags\": [null, \"é\"]}"])),
    _ = text(Config, ["pub", "esdb_channel_events", "typed", "#{id => 1, name => <<\"x\">>}"]),
    _ = text(Config, ["pub", "esdb_channel_events", "typed", "\"ab\"", "--term"]),
    {0, _, _} = gater_cli:run(value(world, Config),
                              ["pub", "esdb_channel_security", "typed", "#{user => u1}", "--sign"],
                              [{"ESDB_GATER_SECRET", "shared"} | name(Config)]),
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= 4 end),
    ?assertMatch([#{<<"id">> := 1, <<"tags">> := [null, <<"é"/utf8>>]}, #{id := 1, name := <<"x">>}, "ab",
                  #{user := u1, signed_at := _, signature := _}],
                 [Message || {channel_message, _, <<"typed">>, Message} <- gater_harness:messages(Agent)]).

a_refused_message_names_the_next_step(Config) ->
    {1, <<>>, Unsigned} = run(Config, ["pub", "esdb_channel_security", "t", "#{a => 1}"]),
    ?assertMatch({match, _}, re:run(Unsigned, "signature_required; next: --sign")),
    {64, <<>>, NoSecret} = run(Config, ["pub", "esdb_channel_security", "t", "#{a => 1}", "--sign"]),
    ?assertMatch({match, _}, re:run(NoSecret, "ESDB_GATER_SECRET")),
    {64, <<>>, NoTerm} = run(Config, ["pub", "esdb_channel_events", "t", "#{a => }"]),
    ?assertMatch({match, _}, re:run(NoTerm, "neither JSON nor a term: expected a term at character 7")),
    {1, <<>>, NoChannel} = run(Config, ["pub", "no_such_channel", "t", "1"]),
    ?assertMatch({match, _}, re:run(NoChannel, "no_such_channel")).

messages_are_shown_counted_and_sampled(Config) ->
    Watch = fun(More) ->
        Self = self(),
        Count = subscribers(Config),
        Watcher = spawn_link(fun() -> Self ! {self(), run(Config, ["sub", "esdb_channel_events", "watched" | More])} end),
        gater_harness:until(fun() -> subscribers(Config) =:= Count + 1 end),
        [ok = call(Config, esdb_channel_events, {publish, <<"watched">>, {n, N}}) || N <- lists:seq(1, 10)],
        receive {Watcher, Result} -> Result after 60000 -> error(never_ended) end
    end,
    {0, All, Counted} = Watch(["--count", "10"]),
    ?assertEqual(10, length(binary:split(All, <<"\n">>, [global, trim_all]))),
    ?assertMatch({match, _}, re:run(All, "watched  {n,1}\n")),
    ?assertMatch({match, _}, re:run(Counted, "10 messages in")),
    {0, Sampled, _} = Watch(["--count", "10", "--sample", "5", "--json"]),
    ?assertEqual(2, length(binary:split(Sampled, <<"\n">>, [global, trim_all]))),
    {0, <<>>, Quiet} = Watch(["--count", "10", "--quiet"]),
    ?assertMatch({match, _}, re:run(Quiet, "10 messages in")),
    %% A pattern means the topics that somebody is subscribed to.
    {_, Pid} = gater_harness:agent(value(beam, Config)),
    [ok = call(Config, esdb_channel_events, {subscribe, Topic, Pid})
     || Topic <- [<<"watched">>, <<"wa.x">>, <<"other">>]],
    {0, Matched, _} = Watch(["wa*d", "--count", "10"]),
    ?assertEqual(10, length(binary:split(Matched, <<"\n">>, [global, trim_all]))),
    Self = self(),
    Watcher = spawn_link(fun() -> Self ! {self(), run(Config, ["sub", "esdb_channel_events", "wa*", "--count", "2"])} end),
    gater_harness:until(fun() -> subscribers(Config, <<"wa.x">>) =:= 2 end),
    [ok = call(Config, esdb_channel_events, {publish, Topic, shown})
     || Topic <- [<<"other">>, <<"wa.x">>, <<"watched">>]],
    {0, Both, _} = receive {Watcher, Result} -> Result after 60000 -> error(never_ended) end,
    ?assertMatch({match, _}, re:run(Both, "wa.x  shown\n.*watched  shown\n$")),
    %% Who has watched leaves nothing behind.
    gater_harness:until(fun() -> subscribers(Config, <<"wa.x">>) =:= 1 end).

a_benchmark_measures_both_ways(Config) ->
    Self = self(),
    Before = subscribers(Config, <<"bench">>),
    Receiver = spawn_link(fun() ->
        Self ! {self(), json(Config, ["bench", "sub", "esdb_channel_events", "bench", "--messages", "300",
                                      "--timeout", "60"])}
    end),
    gater_harness:until(fun() -> subscribers(Config, <<"bench">>) =:= Before + 1 end),
    {0, Sent} = json(Config, ["bench", "pub", "esdb_channel_events", "bench", "--messages", "300",
                              "--in-flight", "8", "--size", "100"]),
    {0, Got} = receive {Receiver, Result} -> Result after 120000 -> error(never_ended) end,
    [?assertMatch(#{<<"messages">> := 300, <<"failed">> := 0, <<"p50_us">> := P50, <<"p99_us">> := P99,
                    <<"max_us">> := Max, <<"messages_per_second">> := Rate}
                      when P50 > 0 andalso P99 >= P50 andalso Max >= P99 andalso Rate > 0, Measured)
     || Measured <- [Sent, Got]],
    {1, #{<<"failed">> := Failed, <<"failure">> := Why}} =
        json(Config, ["bench", "pub", "rare", "bench", "--messages", "20"]),
    ?assert(Failed > 0),
    ?assertMatch({match, _}, re:run(Why, "rate_limited")),
    ?assertMatch({match, _}, re:run(text(Config, ["bench", "pub", "esdb_channel_events", "b", "--messages", "50"]),
                                    "50 messages in .* a second\np50 .* p99.9")).

%%% Answers

checks_answer_by_their_exit_code(Config) ->
    [?assertMatch({0, #{<<"ok">> := true}}, json(Config, ["check" | What]), What)
     || What <- [["ready"], ["quorum"], ["queues"], ["disk", "--min-free-percent", "0"], ["config"]]],
    {1, #{<<"ok">> := false, <<"found">> := Spare, <<"next">> := _}} =
        json(Config, ["check", "quorum", "--spare", "1"]),
    ?assertMatch({match, _}, re:run(Spare, "fewer than 1 gateways to spare; 1 of 1")),
    {1, #{<<"found">> := Disk}} = json(Config, ["check", "disk", "--min-free-percent", "100"]),
    ?assertMatch({match, _}, re:run(Disk, "nearly full: .* free in /")),
    {1, Printed, _} = run(Config, ["check", "quorum", "--spare", "1"]),
    ?assertMatch({match, _}, re:run(Printed, "^NO  quorum: .*\n    next: start the gateways")),
    %% A configuration that cannot be used is an answer, no usage error.
    File = filename:join(gater_harness:dir(value(world, Config)), "bad.toml"),
    ok = file:write_file(File, "log = 5\nnmae = \"x\"\n"),
    {1, #{<<"found">> := Bad, <<"next">> := _}} = json(Config, ["check", "config", "--config", File]),
    ?assertMatch({match, _}, re:run(Bad, "^log \\(from .*bad.toml\\)")),
    ok = file:write_file(File, "nmae = \"x\"\n"),
    ?assertMatch({0, _}, json(Config, ["check", "config", "--config", File])),
    {1, #{<<"found">> := Unknown}} = json(Config, ["check", "config", "--strict", "--config", File]),
    ?assertMatch({match, _}, re:run(Unknown, "no secret is configured.*did you mean name|did you mean name.*no secret", [dotall])),
    %% Nobody there: not known.
    {2, <<>>, _} = gater_cli:run(value(world, Config), ["check", "ready", "--name", "nobody@127.0.0.1"]).

a_command_without_a_gateway_points_to_the_doctor(Config) ->
    World = value(world, Config),
    #{node := Gater} = value(gateway, Config),
    {1, <<>>, Nobody} = gater_cli:run(World, ["status", "--name", "nobody@127.0.0.1"]),
    ?assertMatch({match, _}, re:run(Nobody, "nobody@127.0.0.1 is not registered with its EPMD")),
    ?assertMatch({match, _}, re:run(Nobody, "next: `esdb-gater doctor nobody@127.0.0.1`")),
    Cookie = filename:join(gater_harness:dir(World), "other-cookie"),
    ok = file:write_file(Cookie, "other"),
    ok = file:change_mode(Cookie, 8#600),
    {1, <<>>, Wrong} = gater_cli:run(World, ["peers", "--name", atom_to_list(Gater), "--cookie-file", Cookie]),
    ?assertMatch({match, _}, re:run(Wrong, "wrong cookie")),
    ?assertMatch({match, _}, re:run(Wrong, "next: `esdb-gater doctor " ++ atom_to_list(Gater))),
    %% A node that is no gateway.
    #{node := Beam} = value(beam, Config),
    {1, <<>>, NoGateway} = gater_cli:run(World, ["status", "--name", atom_to_list(Beam)]),
    ?assertMatch({match, _}, re:run(NoGateway, "it is no gateway")),
    {64, <<>>, NoName} = gater_cli:run(World, ["status"], [{"ESDB_GATER_NAME", false}]),
    ?assertMatch({match, _}, re:run(NoName, "name is missing")).

%%% Terminals

a_terminal_gets_lines_and_colours(Config) ->
    Coloured = on_terminal(Config, ["status"], "", []),
    ?assertMatch({match, _}, re:run(Coloured, "\e\\[32mhealthy\e\\[0m")),
    ?assertEqual(nomatch, binary:match(on_terminal(Config, ["status"], "", [{"NO_COLOR", "1"}]), <<"\e[">>)),
    ?assertEqual(nomatch, binary:match(on_terminal(Config, ["status"], "", [{"TERM", "dumb"}]), <<"\e[">>)),
    ?assertMatch({match, _}, re:run(on_terminal(Config, ["stores"], "", []), "═|─", [unicode])).

a_full_screen_ends_with_a_key(Config) ->
    Screen = on_terminal(Config, ["top"], "q", []),
    #{node := Gater} = value(gateway, Config),
    [?assertMatch({match, _}, re:run(Screen, Part), {Part, Screen})
     || Part <- [atom_to_list(Gater), "published", "channels", "peers", "no.*alarm"]],
    {64, <<>>, Complaint} = run(Config, ["top"]),
    ?assertMatch({match, _}, re:run(Complaint, "needs a terminal")).

%%% What is generated

generated_files_can_be_used(Config) ->
    Dir = gater_harness:dir(value(world, Config)),
    Toml = filename:join(Dir, "generated.toml"),
    ok = file:write_file(Toml, text(Config, ["generate-config"])),
    {0, #{<<"found">> := Found}} =
        gater_cli:json(value(world, Config), ["check", "config", "--strict", "--config", Toml],
                       [{"ESDB_GATER_SECRET", "shared"} | name(Config)]),
    ?assertMatch({match, _}, re:run(Found, "it can be used")),
    ?assertEqual(nomatch, binary:match(text(Config, ["generate-config", "--bare"]), <<"#">>)),
    Bash = filename:join(Dir, "completions"),
    ok = file:write_file(Bash, text(Config, ["completions", "bash"])),
    ?assertEqual("0\n", os:cmd("bash -n " ++ Bash ++ "; echo $?")),
    [?assertNotEqual(<<>>, text(Config, ["completions", Shell])) || Shell <- ["zsh", "fish"]],
    Pages = filename:join(Dir, "man1"),
    _ = text(Config, ["man", "--out", Pages]),
    ?assert(filelib:is_regular(filename:join(Pages, "esdb-gater.1"))),
    ?assert(filelib:is_regular(filename:join(Pages, "esdb-gater-doctor.1"))),
    ?assertMatch(<<".ie", _/binary>>, text(Config, ["man"])).

%%% Orders

orders_take_the_key_of_the_gateway(Config) ->
    World = value(world, Config),
    Gateway = #{node := Gater} = value(gateway, Config),
    Data = filename:join(gater_harness:dir(World), atom_to_list(Gater)),
    Elsewhere = filename:join(gater_harness:dir(World), "elsewhere"),
    {1, <<>>, NoKey} = run(Config, ["drain", "--data-dir", Elsewhere]),
    ?assertMatch({match, _}, re:run(NoKey, "admin.key.*\n  next: run this on its machine")),
    ok = filelib:ensure_dir(filename:join(Elsewhere, "x")),
    ok = file:write_file(filename:join(Elsewhere, "admin.key"), binary:copy(<<7>>, 32)),
    {1, <<>>, OtherKey} = run(Config, ["log", "trace", "--data-dir", Elsewhere]),
    ?assertMatch({match, _}, re:run(OtherKey, "the key is not its own")),
    _ = text(Config, ["log", "gater_node=debug,info", "--data-dir", Data]),
    ?assertMatch({0, #{<<"status">> := #{<<"config">> := #{<<"log">> := <<"gater_node=debug,info">>}}}},
                 json(Config, ["status"])),
    {1, <<>>, BadFilter} = run(Config, ["log", "=[=", "--data-dir", Data]),
    ?assertMatch({match, _}, re:run(BadFilter, "bad_filter")),
    ?assert(gater_harness:alive(Gateway)),
    {0, Drained, _} = run(Config, ["drain", "--data-dir", Data]),
    ?assertMatch({match, _}, re:run(Drained, "drained and stopped")),
    ?assertEqual(0, gater_harness:await_exit(World, Gateway)).

%%% Running it

a_service_manager_is_told(Config) ->
    World = value(world, Config),
    Path = filename:join("/tmp", gater_harness:unique("notify")),
    {ok, Socket} = gen_udp:open(0, [{ifaddr, {local, Path}}, binary, {active, false}]),
    Name = gater_harness:unique("served") ++ "@127.0.0.1",
    Program = open_port({spawn_executable, gater_harness:program()},
                        [{args, ["start", "--name", Name, "--data-dir", filename:join(gater_harness:dir(World), Name)]},
                         {env, [{"NOTIFY_SOCKET", Path}, {"WATCHDOG_USEC", "200000"},
                                {"ESDB_GATER_COOKIE_FILE", filename:join(gater_harness:dir(World), "cookie")},
                                {"ESDB_GATER_LOG", "off"}]}, exit_status, binary]),
    {os_pid, OsPid} = erlang:port_info(Program, os_pid),
    Told = fun Told(Wanted) ->
        {ok, {_, _, Text}} = gen_udp:recv(Socket, 0, 60000),
        case binary:match(Text, Wanted) of nomatch -> Told(Wanted); _ -> Text end
    end,
    Ready = Told(<<"READY=1">>),
    ?assertMatch({match, _}, re:run(Ready, "STATUS=" ++ Name ++ " serves on port")),
    [Told(<<"WATCHDOG=1">>) || _ <- lists:seq(1, 3)],
    [] = os:cmd("kill -TERM " ++ integer_to_list(OsPid)),
    _ = Told(<<"STOPPING=1">>),
    ?assertEqual(0, receive {Program, {exit_status, Status}} -> Status after 60000 -> never_ended end),
    gen_udp:close(Socket),
    ok = file:delete(Path).

the_unit_of_systemd_is_valid(Config) ->
    {ok, Unit} = file:read_file(filename:join([root(), "deploy", "systemd", "esdb-gater.service"])),
    case os:find_executable("systemd-analyze") of
        false ->
            {skip, "NO systemd-analyze: THE UNIT WAS NOT VERIFIED"};
        Analyze ->
            %% The paths of this checkout in the place of those of an installation.
            Here = re:replace(re:replace(Unit, "/usr/local/bin/esdb-gater", gater_harness:program()),
                              "Documentation=.*\n", "", [{return, binary}]),
            File = filename:join(gater_harness:dir(value(world, Config)), "esdb-gater.service"),
            ok = file:write_file(File, Here),
            ?assertEqual("rc=0\n", os:cmd(Analyze ++ " verify " ++ File ++ " 2>&1; echo rc=$?"))
    end.

alert_rules_are_valid(_Config) ->
    Dir = filename:join([root(), "deploy", "prometheus"]),
    case os:find_executable("promtool") of
        false ->
            {skip, "NO promtool: THE ALERT RULES WERE NOT CHECKED"};
        Promtool ->
            Checked = os:cmd("cd " ++ Dir ++ " && " ++ Promtool ++ " check rules alerts.yml 2>&1 && "
                             ++ Promtool ++ " test rules alerts.test.yml 2>&1; echo rc=$?"),
            ?assertMatch({match, _}, re:run(Checked, "rc=0\n$"), Checked)
    end.

alerts_point_into_the_runbook(_Config) ->
    Dir = filename:join([root(), "deploy", "prometheus"]),
    {ok, Rules} = file:read_file(filename:join(Dir, "alerts.yml")),
    {ok, Runbook} = file:read_file(filename:join([root(), "docs", "RUNBOOK.md"])),
    {match, Anchors} = re:run(Rules, "RUNBOOK.md(#[a-z_-]+)", [global, {capture, all_but_first, binary}]),
    [?assertMatch({_, _}, binary:match(Runbook, <<"(", Anchor/binary, ")">>), Anchor) || [Anchor] <- Anchors].

alerts_and_dashboard_use_metrics_that_there_are(_Config) ->
    {ok, Reference} = file:read_file(filename:join([root(), "docs", "METRICS.md"])),
    [begin
         {ok, Text} = file:read_file(filename:join([root(), "deploy" | File])),
         {match, Used} = re:run(Text, "esdb_gater_[a-z_]+", [global, {capture, first, binary}]),
         Names = lists:usort([re:replace(Name, "_bucket$", "", [{return, binary}]) || [Name] <- Used]),
         ?assert(length(Names) > 5),
         [?assertMatch({_, _}, binary:match(Reference, <<"`", Name/binary, "`">>), {File, Name})
          || Name <- Names]
     end || File <- [["prometheus", "alerts.yml"], ["grafana", "esdb-gater.json"]]].

%%% Helpers

name(Config) ->
    #{node := Gater} = value(gateway, Config),
    [{"ESDB_GATER_NAME", atom_to_list(Gater)}].

run(Config, Arguments) -> gater_cli:run(value(world, Config), Arguments, name(Config)).

json(Config, Arguments) -> gater_cli:json(value(world, Config), Arguments, name(Config)).

text(Config, Arguments) ->
    case run(Config, Arguments) of
        {0, Printed, _} -> Printed;
        Other -> error({failed, Arguments, Other})
    end.

call(Config, Name, Request) ->
    gater_harness:call(value(beam, Config), {Name, value(gateway, Config)}, Request).

subscribers(Config) -> subscribers(Config, <<"watched">>).

subscribers(Config, Topic) -> length(call(Config, esdb_channel_events, {get_subscribers, Topic})).

%% Runs the program on a terminal of its own, types `Keys' once it has drawn something, and returns
%% everything that it wrote.
on_terminal(Config, Arguments, Keys, Variables) ->
    Script = "
import os, pty, select, sys, time
keys, command = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(command[0], command)
import fcntl, struct, termios
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
written, typed, deadline = b'', not keys, time.monotonic() + 60
while time.monotonic() < deadline:
    ready = select.select([terminal], [], [], 0.5)[0]
    if ready:
        try: more = os.read(terminal, 65536)
        except OSError: more = b''
        if not more: break
        written += more
    elif not typed and b'peers' in written:
        os.write(terminal, keys.encode())
        typed = True
os.waitpid(child, 0)
sys.stdout.buffer.write(written)
",
    World = value(world, Config),
    Environment = [{"ESDB_GATER_COOKIE_FILE", filename:join(gater_harness:dir(World), "cookie")},
                   {"TERM", "xterm-256color"}, {"NO_COLOR", false}] ++ name(Config),
    Port = open_port({spawn_executable, os:find_executable("python3")},
                     [{args, ["-c", Script, Keys, gater_harness:program() | Arguments]},
                      {env, lists:ukeysort(1, Variables ++ [Pair || Pair = {Key, _} <- Environment,
                                                              not lists:keymember(Key, 1, Variables)])},
                      binary, exit_status]),
    written(Port, <<>>).

written(Port, Text) ->
    receive
        {Port, {data, More}} -> written(Port, <<Text/binary, More/binary>>);
        {Port, {exit_status, _}} -> Text
    after 90000 -> error({never_ended, Text})
    end.

root() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.

value(Key, Config) -> proplists:get_value(Key, Config).
