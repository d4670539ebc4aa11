%% @doc Incidents, and the one command that explains each: its output names the cause and the next
%% step. And the commands of an operator against a real cluster.
-module(operator_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([a_node_that_is_well_passes_every_stage/1, a_gateway_that_is_well_passes_every_stage/1,
         a_wrong_cookie_is_named_with_both_fingerprints/1, short_against_long_names_are_named/1,
         a_node_that_is_not_there_is_named_with_the_nearest/1, a_host_without_epmd_is_named/1,
         a_host_that_is_unknown_is_named/1, a_port_that_is_no_erlang_node_is_named/1,
         a_node_without_the_application_is_named/1, a_name_that_is_taken_is_named/1,
         a_cookie_that_others_can_read_is_named/1, a_cookie_that_is_missing_is_named/1,
         a_slow_subscriber_is_named_with_what_it_lost/1,
         one_gateway_of_three_down_is_named_and_then_two/1, a_disk_that_is_full_is_named/1]).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [a_node_that_is_well_passes_every_stage, a_gateway_that_is_well_passes_every_stage,
     a_wrong_cookie_is_named_with_both_fingerprints, short_against_long_names_are_named,
     a_node_that_is_not_there_is_named_with_the_nearest, a_host_without_epmd_is_named,
     a_host_that_is_unknown_is_named, a_port_that_is_no_erlang_node_is_named,
     a_node_without_the_application_is_named, a_name_that_is_taken_is_named,
     a_cookie_that_others_can_read_is_named, a_cookie_that_is_missing_is_named,
     a_slow_subscriber_is_named_with_what_it_lost,
     one_gateway_of_three_down_is_named_and_then_two, a_disk_that_is_full_is_named].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_SECRET", "shared"}],
                                             config => "[channels.bulk]\npriority = \"low\"\n"}),
    Beam = gater_shim:node(World, [?MODULE]),
    ok = gater_shim:start(Beam, gater_shim:named([Gateway])),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

%%% The doctor

a_node_that_is_well_passes_every_stage(Config) ->
    #{node := Node} = value(beam, Config),
    #{node := Gater} = value(gateway, Config),
    gater_harness:until(fun() ->
        gater_harness:on(value(beam, Config), fun() -> esdb_gater_link:gateway() end) =:= {ok, Gater}
    end),
    {0, Report} = doctor(Config, [atom_to_list(Node), "--name", atom_to_list(Gater)]),
    ?assertMatch(#{<<"ok">> := true}, Report),
    ?assertEqual([<<"name">>, <<"cookie">>, <<"resolve">>, <<"epmd">>, <<"tcp">>, <<"tls">>,
                  <<"handshake">>, <<"authentication">>, <<"round_trip">>, <<"application">>,
                  <<"gateway">>, <<"clock">>, <<"registration">>, <<"descriptors">>, <<"disk">>,
                  <<"time">>], [Stage || #{<<"stage">> := Stage} <- stages(Report)]),
    ?assertEqual([], [Stage || Stage = #{<<"status">> := <<"skipped">>, <<"stage">> := Name}
                                   <- stages(Report),
                               not lists:member(Name, [<<"tls">>, <<"disk">>])]),
    says(Report, <<"handshake">>, <<"found">>, "offered there: .*SPAWN"),
    says(Report, <<"application">>, <<"found">>, "erl_esdb_gater [0-9.]+ runs, on OTP 25"),
    says(Report, <<"gateway">>, <<"found">>, "it uses " ++ atom_to_list(Gater)),
    %% The line for a shell prints the same fingerprint.
    [Line] = captured(Report, <<"cookie">>, "prints its own with: (.*)$"),
    [Fingerprint] = captured(Report, <<"cookie">>, "fingerprint ([0-9A-F]{8})"),
    ?assertEqual(Fingerprint, gater_harness:on(value(beam, Config), fun() ->
        {ok, Tokens, _} = erl_scan:string(Line),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, []),
        binary_to_list(Value)
    end)),
    %% For people the same, without colours where there is no terminal.
    Text = gater_cli:text(value(world, Config), ["doctor", atom_to_list(Node), "--name", atom_to_list(Gater)]),
    ?assertMatch({match, _}, re:run(Text, "nothing is wrong\n$")),
    ?assertEqual(nomatch, binary:match(Text, <<"\e">>)).

a_gateway_that_is_well_passes_every_stage(Config) ->
    #{node := Gater} = value(gateway, Config),
    {0, Report} = doctor(Config, ["--name", atom_to_list(Gater)]),
    says(Report, <<"application">>, <<"found">>, "esdb-gater [0-9.]+, up for [0-9]+ s"),
    says(Report, <<"gateway">>, <<"found">>, "healthy"),
    says(Report, <<"clock">>, <<"found">>, "to within"),
    says(Report, <<"registration">>, <<"found">>, "is registered for " ++ atom_to_list(Gater)).

a_wrong_cookie_is_named_with_both_fingerprints(Config) ->
    World = value(world, Config),
    #{node := Node} = gater_harness:node(World, #{args => ["-setcookie", "another"]}),
    #{node := Gater} = value(gateway, Config),
    {1, Report} = doctor(Config, [atom_to_list(Node), "--name", atom_to_list(Gater)]),
    only_failure(Report, <<"authentication">>),
    says(Report, <<"authentication">>, <<"cause">>, "wrong cookie.*fingerprint [0-9A-F]{8}"),
    says(Report, <<"authentication">>, <<"next">>, "erlang:get_cookie.*--cookie-file"),
    %% The handshake before it went well, and shows both offers.
    says(Report, <<"handshake">>, <<"found">>, "missing: nothing"),
    %% A gateway that is asked with a wrong cookie points here.
    File = filename:join(gater_harness:dir(World), "wrong-cookie"),
    ok = file:write_file(File, "wrong"),
    ok = file:change_mode(File, 8#600),
    {1, Wrong} = doctor(Config, ["--name", atom_to_list(Gater), "--cookie-file", File]),
    says(Wrong, <<"authentication">>, <<"cause">>, "wrong cookie").

short_against_long_names_are_named(Config) ->
    World = value(world, Config),
    Name = gater_harness:unique("short"),
    #{node := Gater} = value(gateway, Config),
    #{node := Short} = gater_harness:node(World, #{name => Name, host => "localhost",
                                                   longnames => false}),
    %% By the name that it has.
    {1, Named} = doctor(Config, [atom_to_list(Short), "--name", atom_to_list(Gater)]),
    says(Named, <<"name">>, <<"cause">>, "is a short name"),
    says(Named, <<"name">>, <<"next">>, "erl -name"),
    %% By the name that the operator thinks that it has.
    {1, Thought} = doctor(Config, [Name ++ "@127.0.0.1", "--name", atom_to_list(Gater)]),
    only_failure(Thought, <<"handshake">>),
    says(Thought, <<"handshake">>, <<"cause">>,
         "is called " ++ atom_to_list(Short) ++ ".*short names"),
    says(Thought, <<"handshake">>, <<"next">>, "-name " ++ Name ++ "@127.0.0.1").

a_node_that_is_not_there_is_named_with_the_nearest(Config) ->
    #{node := Node} = value(beam, Config),
    [Alive, Host] = string:split(atom_to_list(Node), "@"),
    {1, Report} = doctor(Config, [Alive ++ "x@" ++ Host]),
    only_failure(Report, <<"epmd">>),
    says(Report, <<"epmd">>, <<"cause">>, "knows no " ++ Alive ++ "x.*nearest name is " ++ Alive),
    says(Report, <<"epmd">>, <<"next">>, "epmd -names"),
    [?assertMatch(#{<<"status">> := <<"skipped">>}, stage(Report, Stage))
     || Stage <- [<<"tcp">>, <<"handshake">>, <<"authentication">>, <<"round_trip">>, <<"clock">>]].

a_host_without_epmd_is_named(Config) ->
    {1, Report} = gater_cli:json(value(world, Config), ["doctor", "app@127.0.0.1"],
                                 [{"ERL_EPMD_PORT", integer_to_list(free_port())}]),
    only_failure(Report, <<"epmd">>),
    says(Report, <<"epmd">>, <<"cause">>, "no EPMD at 127.0.0.1:[0-9]+: .*refused"),
    says(Report, <<"epmd">>, <<"next">>, "ERL_EPMD_PORT").

a_host_that_is_unknown_is_named(Config) ->
    {1, Report} = doctor(Config, ["app@nowhere.invalid", "--timeout", "5"]),
    only_failure(Report, <<"resolve">>),
    says(Report, <<"resolve">>, <<"next">>, "getent hosts nowhere.invalid"),
    {1, NoName} = doctor(Config, ["app"]),
    only_failure(NoName, <<"name">>).

a_port_that_is_no_erlang_node_is_named(Config) ->
    [begin
         {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
         {ok, Port} = inet:port(Listener),
         Server = spawn_link(fun() -> answer(Listener, Answer) end),
         Name = gater_harness:unique("no_node"),
         {ok, Registration} = register_with_epmd(Name, Port),
         {1, Report} = doctor(Config, [Name ++ "@127.0.0.1", "--timeout", Seconds]),
         only_failure(Report, <<"handshake">>),
         says(Report, <<"handshake">>, <<"cause">>, Cause),
         says(Report, <<"handshake">>, <<"next">>, "ss -ltnp"),
         unlink(Server),
         exit(Server, kill),
         gen_tcp:close(Listener),
         gen_tcp:close(Registration),
         %% And one whose program is gone, while EPMD does not know.
         {ok, Again} = register_with_epmd(Name ++ "_gone", Port),
         {1, Gone} = doctor(Config, [Name ++ "_gone@127.0.0.1"]),
         only_failure(Gone, <<"tcp">>),
         says(Gone, <<"tcp">>, <<"cause">>, "does not take connections"),
         gen_tcp:close(Again)
     end || {Answer, Seconds, Cause} <-
                [{<<"HTTP/1.1 400 Bad Request\r\n\r\n">>, "60", "no Erlang node: it speaks HTTP"},
                 {<<21, 3, 3, 0, 2, 2, 70>>, "60", "it speaks TLS"},
                 {<<>>, "6", "says nothing for 6 s"}]].

a_node_without_the_application_is_named(Config) ->
    #{node := Plain} = gater_harness:node(value(world, Config)),
    {1, Report} = doctor(Config, [atom_to_list(Plain)]),
    only_failure(Report, <<"application">>),
    says(Report, <<"application">>, <<"cause">>, "erl_esdb_gater does not run on"),
    says(Report, <<"application">>, <<"next">>, "ensure_all_started"),
    {0, Expected} = doctor(Config, [atom_to_list(Plain), "--plain"]),
    ?assertMatch(#{<<"status">> := <<"skipped">>}, stage(Expected, <<"application">>)).

a_name_that_is_taken_is_named(Config) ->
    #{node := Node} = value(beam, Config),
    [Alive, _] = string:split(atom_to_list(Node), "@"),
    {1, Other} = doctor(Config, [atom_to_list(Node), "--name", Alive ++ "@127.0.0.2"]),
    says(Other, <<"registration">>, <<"cause">>, "is taken on that host by " ++ atom_to_list(Node)),
    says(Other, <<"registration">>, <<"next">>, "another name").

a_cookie_that_others_can_read_is_named(Config) ->
    World = value(world, Config),
    File = filename:join(gater_harness:dir(World), "open-cookie"),
    ok = file:write_file(File, gater_harness:cookie(World)),
    ok = file:change_mode(File, 8#644),
    #{node := Gater} = value(gateway, Config),
    {1, Report} = gater_cli:json(World, ["doctor", "--name", atom_to_list(Gater), "--cookie-file", File]),
    only_failure(Report, <<"cookie">>),
    says(Report, <<"cookie">>, <<"cause">>, "mode 0644"),
    says(Report, <<"cookie">>, <<"next">>, "chmod 600 " ++ File),
    %% All else is looked at all the same.
    ?assertMatch(#{<<"status">> := <<"ok">>}, stage(Report, <<"round_trip">>)).

a_cookie_that_is_missing_is_named(Config) ->
    #{node := Gater} = value(gateway, Config),
    Home = filename:join(gater_harness:dir(value(world, Config)), "empty-home"),
    ok = filelib:ensure_dir(filename:join(Home, "x")),
    {1, Report} = gater_cli:json(value(world, Config), ["doctor", "--name", atom_to_list(Gater)],
                                 [{"ESDB_GATER_COOKIE_FILE", false}, {"HOME", Home}]),
    says(Report, <<"cookie">>, <<"cause">>, "cookie is missing"),
    %% It is said all the same who is there.
    says(Report, <<"handshake">>, <<"found">>, "offered there"),
    ?assertMatch(#{<<"status">> := <<"skipped">>}, stage(Report, <<"authentication">>)).

%%% Incidents of a gateway that runs

a_slow_subscriber_is_named_with_what_it_lost(Config) ->
    World = value(world, Config),
    #{node := Gater} = value(gateway, Config),
    Victim = #{node := Node} = gater_harness:node(World, #{modules => [?MODULE]}),
    {_, Pid} = gater_harness:agent(Victim),
    Call = fun(Request) ->
        gater_harness:on(value(beam, Config), fun() -> gen_server:call({bulk, Gater}, Request, 20000) end)
    end,
    ok = Call({subscribe, <<"t">>, Pid}),
    At = ["--name", atom_to_list(Gater)],
    {0, _} = gater_cli:json(World, ["check", "queues" | At]),
    gater_harness:signal(Victim, "STOP"),
    gater_harness:until(fun() ->
        Body = binary:copy(<<"x">>, 100000),
        [ok = Call({publish, <<"t">>, Body}) || _ <- lists:seq(1, 50)],
        {0, #{<<"items">> := Slow}} = gater_cli:json(World, ["slow" | At]),
        [ok || #{<<"node">> := Of, <<"dropped">> := Dropped} <- Slow,
               Of =:= atom_to_binary(Node), Dropped > 0] =/= []
    end, 60000),
    Text = gater_cli:text(World, ["slow" | At]),
    ?assertMatch({match, _}, re:run(Text, atom_to_list(Node) ++ "\n  cause  [0-9]+ messages of bulk: queue_full\n  next   [a-zA-Z]")),
    %% Before somebody looks, the check says so.
    {1, #{<<"found">> := Found, <<"next">> := Next}} = gater_cli:json(World, ["check", "queues" | At]),
    ?assertMatch({_, _}, binary:match(Found, atom_to_binary(Node)), Found),
    ?assertMatch({match, _}, re:run(Next, "esdb-gater slow")),
    gater_harness:signal(Victim, "CONT"),
    gater_harness:kill_node(World, Victim).

one_gateway_of_three_down_is_named_and_then_two(_Config) ->
    {ok, Cluster} = gater_cluster:start(#{gateways => 3, beams => 1}),
    try
        World = gater_cluster:world(Cluster),
        gater_cluster:settle(Cluster),
        [Asked, First, Second] = gater_cluster:gateways(Cluster),
        Check = fun(More) ->
            gater_cli:json(World, ["check", "quorum", "--name", atom_to_list(Asked) | More])
        end,
        gater_harness:until(fun() -> element(1, Check(["--spare", "1"])) =:= 0 end),
        gater_cluster:kill(Cluster, First),
        gater_harness:until(fun() ->
            {0, #{<<"alarms">> := Alarms}} = gater_cli:json(World, ["status", "--name", atom_to_list(Asked)]),
            [ok || #{<<"name">> := <<"quorum_at_risk">>, <<"text">> := Cause, <<"next_step">> := Next} <- Alarms,
                   binary:match(Cause, atom_to_binary(First)) =/= nomatch,
                   binary:match(Next, <<"start the gateways that are missing">>) =/= nomatch] =/= []
        end, 60000),
        {2, #{<<"health">> := <<"degraded">>, <<"members">> := [_, _, _]}} =
            gater_cli:json(World, ["cluster", "status", "--name", atom_to_list(Asked)]),
        %% It goes on, with none to spare.
        ?assertMatch({0, _}, Check([])),
        {1, #{<<"found">> := Spare}} = Check(["--spare", "1"]),
        ?assertMatch({_, _}, binary:match(Spare, atom_to_binary(First))),
        gater_cluster:kill(Cluster, Second),
        gater_harness:until(fun() -> element(1, Check([])) =:= 1 end, 60000),
        {1, #{<<"found">> := Lost, <<"next">> := Step}} = Check([]),
        [?assertMatch({_, _}, binary:match(Lost, Part), Lost)
         || Part <- [<<"no majority: registrations are refused">>, atom_to_binary(First), atom_to_binary(Second)]],
        ?assertMatch({match, _}, re:run(Step, "start the gateways")),
        {1, Report} = gater_cli:json(World, ["doctor", "--name", atom_to_list(Asked)]),
        says(Report, <<"gateway">>, <<"cause">>, "no majority")
    after
        gater_cluster:stop(Cluster)
    end.

a_disk_that_is_full_is_named(Config) ->
    World = value(world, Config),
    Dir = filename:join(gater_harness:dir(World), "small-disk"),
    ok = filelib:ensure_dir(filename:join(Dir, "x")),
    Mount = ["sh", "-c", "mount -t tmpfs -o size=64m,mode=700 none \"$0\" && exec \"$@\"", Dir],
    Via = ["unshare", "--mount"] ++ ["--map-root-user" || os:cmd("id -u") =/= "0\n"] ++ Mount,
    case gater_harness:launch(World, #{via => Via, data_dir => Dir}) of
        {error, Reason} ->
            {skip, {"NO DISK OF ITS OWN FOR A GATEWAY", Reason}};
        {ok, #{node := Gater, os_pid := OsPid} = Gateway} ->
            At = ["--name", atom_to_list(Gater)],
            {0, _} = gater_cli:json(World, ["check", "disk" | At]),
            %% The disk as the gateway sees it: some MiB of it are left.
            Seen = filename:join(["/proc", integer_to_list(OsPid), "root" ++ Dir]),
            {match, [Blocks, Bytes]} = re:run(os:cmd("stat -f -c '%a %S' " ++ Seen), "^([0-9]+) ([0-9]+)",
                                              [{capture, all_but_first, list}]),
            Free = list_to_integer(Blocks) * list_to_integer(Bytes),
            ?assert(Free < 64 bsl 20, Free),
            Filler = filename:join(Seen, "filler"),
            ok = file:write_file(Filler, binary:copy(<<0>>, Free - (8 bsl 20))),
            gater_harness:until(fun() -> element(1, gater_cli:json(World, ["check", "disk" | At])) =:= 1 end),
            {1, #{<<"found">> := Found, <<"next">> := Next}} = gater_cli:json(World, ["check", "disk" | At]),
            ?assertMatch({match, _}, re:run(Found, "nearly full: .* free in " ++ Dir)),
            ?assertMatch({match, _}, re:run(Next, "free space on that disk")),
            gater_harness:until(fun() ->
                match =:= re:run(gater_cli:text(World, ["status" | At]),
                                 "disk_nearly_full.*\n  cause  .*" ++ Dir ++ ".*\n  next   free or add space",
                                 [{capture, none}])
            end),
            %% No room at all: registrations are refused, until there is some.
            Beam = gater_harness:node(World, #{modules => [?MODULE]}),
            {_, Pid} = gater_harness:agent(Beam),
            Register = fun(Store) ->
                gater_harness:call(Beam, {esdb_gater_worker_registry, Gateway}, {register, Store, Pid}, 20000)
            end,
            Rest = Filler ++ ".rest",
            _ = fill(Rest),
            %% The segment of the log that is in use has its room; the next one has none.
            gater_harness:until(fun() -> refused_for_lack_of_room(Beam, Gater, Pid) end, 120000),
            gater_harness:until(fun() ->
                {1, #{<<"found">> := Full, <<"next">> := Step}} = gater_cli:json(World, ["check", "disk" | At]),
                match =:= re:run(Full, "the disk is full: registrations are refused; .* in " ++ Dir,
                                 [{capture, none}])
                    andalso match =:= re:run(Step, "the gateway writes again by itself", [{capture, none}])
            end),
            {1, _} = gater_cli:json(World, ["check", "ready" | At]),
            [ok = file:delete(File) || File <- [Filler, Rest]],
            gater_harness:until(fun() -> Register(store) =:= ok end),
            gater_harness:until(fun() -> element(1, gater_cli:json(World, ["check", "disk" | At])) =:= 0 end)
    end.

%% Writes the log; whether the disk was full meanwhile.
refused_for_lack_of_room(Beam, Gater, Pid) ->
    gater_harness:on(Beam, fun() ->
        Names = [list_to_atom(lists:duplicate(240, $x) ++ integer_to_list(N)) || N <- lists:seq(1, 200)],
        Ids = [gen_server:send_request({esdb_gater_worker_registry, Gater}, {What, Name, Pid})
               || What <- [register, unregister], Name <- Names],
        Answers = [gen_server:receive_response(Id, 20000) || Id <- Ids],
        lists:member({reply, {error, disk_full}}, Answers)
    end, 60000).

%% Appends to a file until nothing more fits.
fill(File) ->
    case file:write_file(File, binary:copy(<<0>>, 1024), [append]) of
        ok -> fill(File);
        {error, _} = Error -> Error
    end.

%%% Helpers

doctor(Config, Arguments) -> gater_cli:json(value(world, Config), ["doctor" | Arguments]).

stages(#{<<"stages">> := Stages}) -> Stages.

stage(Report, Name) ->
    [Stage] = [Stage || Stage = #{<<"stage">> := Of} <- stages(Report), Of =:= Name],
    Stage.

only_failure(Report, Name) ->
    ?assertEqual([Name], [Of || #{<<"stage">> := Of, <<"status">> := <<"failed">>} <- stages(Report)],
                 Report).

%% A field of a stage matches.
says(Report, Name, Field, Pattern) ->
    Text = case maps:get(Field, stage(Report, Name), missing) of
        Lines when is_list(Lines) -> lists:join(<<"\n">>, Lines);
        Line -> Line
    end,
    ?assertMatch({match, _}, re:run(Text, Pattern), {Name, Field, Pattern, Text}).

captured(Report, Name, Pattern) ->
    Text = lists:join(<<"\n">>, maps:get(<<"found">>, stage(Report, Name))),
    {match, Captured} = re:run(Text, Pattern, [{capture, all_but_first, list}, multiline]),
    Captured.

%% Answers every connection alike, and keeps it open.
answer(Listener, Answer) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    {ok, _} = gen_tcp:recv(Socket, 0),
    ok = gen_tcp:send(Socket, Answer),
    _ = gen_tcp:recv(Socket, 0),
    answer(Listener, Answer).

%% ALIVE2_REQ of a hidden node; the registration lasts as long as its socket.
register_with_epmd(Name, Port) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, 4369, [binary, {active, false}, {packet, 0}]),
    Request = <<120, Port:16, 72, 0, 6:16, 5:16, (length(Name)):16, (list_to_binary(Name))/binary, 0:16>>,
    ok = gen_tcp:send(Socket, <<(byte_size(Request)):16, Request/binary>>),
    {ok, <<_, 0, _/binary>>} = gen_tcp:recv(Socket, 0),
    {ok, Socket}.

free_port() ->
    {ok, Listener} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listener),
    gen_tcp:close(Listener),
    Port.

value(Key, Config) -> proplists:get_value(Key, Config).
