%% @doc A gateway in the hands of its operator: what it logs, where it listens, which signals it
%% knows, and what it says of peers that are refused.
-module(operate_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([a_log_on_a_full_disk_stops_nothing_and_is_counted/1,
         a_log_without_a_reader_stops_nothing_and_is_counted/1,
         a_log_that_nobody_reads_slows_nothing/1, usage_errors_keep_their_exit_code_without_a_log/1,
         the_first_line_says_what_runs_and_where/1, a_start_logs_nothing_of_the_consensus_library/1,
         a_gateway_listens_where_its_name_leads/1, a_name_of_another_host_is_warned_of/1,
         an_ipv6_gateway_and_node_find_each_other/1,
         a_hangup_has_the_secret_and_the_log_filter_read_again/1, user_signals_are_ignored/1,
         a_second_sigterm_ends_it_at_once/1, other_protocols_are_named_in_the_log/1,
         repeated_refusals_are_counted_and_not_repeated/1, a_cookie_is_latin_1_as_for_erlang/1,
         refused_messages_are_counted_by_channel_reason_and_node/1,
         system_messages_are_answered/1, a_term_too_deep_is_logged_with_its_sender/1,
         a_data_directory_of_another_name_is_said/1, a_quiet_node_stays_connected/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).
-define(SECURITY, esdb_channel_security).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [a_log_on_a_full_disk_stops_nothing_and_is_counted,
     a_log_without_a_reader_stops_nothing_and_is_counted,
     a_log_that_nobody_reads_slows_nothing, usage_errors_keep_their_exit_code_without_a_log,
     the_first_line_says_what_runs_and_where, a_start_logs_nothing_of_the_consensus_library,
     a_gateway_listens_where_its_name_leads, a_name_of_another_host_is_warned_of,
     an_ipv6_gateway_and_node_find_each_other,
     a_hangup_has_the_secret_and_the_log_filter_read_again, user_signals_are_ignored,
     a_second_sigterm_ends_it_at_once, other_protocols_are_named_in_the_log,
     repeated_refusals_are_counted_and_not_repeated, a_cookie_is_latin_1_as_for_erlang,
     refused_messages_are_counted_by_channel_reason_and_node,
     system_messages_are_answered, a_term_too_deep_is_logged_with_its_sender,
     a_data_directory_of_another_name_is_said, a_quiet_node_stays_connected].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_SECRET", "first"}]}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

%%% The log

a_log_on_a_full_disk_stops_nothing_and_is_counted(Config) ->
    unharmed_by(Config, ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"]).

a_log_without_a_reader_stops_nothing_and_is_counted(Config) ->
    %% The reader of the pipe has ended before the program begins.
    unharmed_by(Config, ["bash", "-c", "exec 9> >(:); wait $!; exec \"$@\" 2>&9 9>&-", "bash"]).

a_log_that_nobody_reads_slows_nothing(Config) ->
    Fifo = filename:join(gater_harness:dir(value(world, Config)), "nobody-reads"),
    unharmed_by(Config, ["sh", "-c", "mkfifo \"$0\" && exec \"$@\" 2<>\"$0\"", Fifo]).

%% A gateway whose log goes nowhere serves, counts the lines, and stops in order.
unharmed_by(Config, Via) ->
    World = value(world, Config),
    Beam = value(beam, Config),
    Gateway = gater_harness:gateway(World, #{via => Via, env => [{"ESDB_GATER_LOG", "trace"}]}),
    Agent = {_, Pid} = gater_harness:agent(Beam),
    ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {subscribe, <<"t">>, Pid}),
    %% Enough lines to fill a pipe and the queue before it.
    Count = 3000,
    gater_harness:on(Beam, fun() ->
        To = {?EVENTS, maps:get(node, Gateway)},
        [ok = gen_server:call(To, {publish, <<"t">>, N}, 20000) || N <- lists:seq(1, Count)],
        [To ! {not_known, N} || N <- lists:seq(1, 20000)],
        ok = gen_server:call(To, {publish, <<"t">>, last}, 20000)
    end),
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= Count + 1 end),
    gater_harness:until(fun() -> maps:get(log_lines_lost, info(Config, Gateway)) > 0 end),
    ?assert(gater_harness:alive(Gateway)),
    gater_harness:signal(Gateway, "TERM"),
    ?assertEqual(0, gater_harness:await_exit(World, Gateway)).

usage_errors_keep_their_exit_code_without_a_log(_Config) ->
    Program = gater_harness:program(),
    [?assertEqual("64\n", os:cmd("bash -c '" ++ Program ++ Arguments ++ " 2>/dev/full; echo $?'"),
                  Arguments)
     || Arguments <- [" start --name nohost", " start --nmae x", " serve"]],
    ?assertEqual("0\n", os:cmd("bash -c '" ++ Program ++ " help >/dev/full; echo $?'")).

the_first_line_says_what_runs_and_where(Config) ->
    Gateway = #{node := Node, options := #{name := Name}} = value(gateway, Config),
    [First | _] = binary:split(gater_harness:log(Gateway), <<"\n">>, [global]),
    Directory = filename:join(gater_harness:dir(value(world, Config)), Name),
    [?assertMatch({_, _}, binary:match(First, iolist_to_binary(Part)), {First, Part})
     || Part <- [["\"node\":\"", atom_to_list(Node)], ["\"data_dir\":\"", Directory],
                 "\"listen\":\"127.0.0.1:0\"", "\"version\":\"", "\"commit\":\""]],
    %% Of a repository it is known what it was built from.
    case os:cmd("git -C " ++ os:getenv("GATER_ROOT", ".") ++ " rev-parse HEAD 2>/dev/null") of
        [_ | _] -> ?assertMatch({match, _}, re:run(First, "\"commit\":\"[0-9a-f]{12}\""), First);
        [] -> ok
    end.

a_start_logs_nothing_of_the_consensus_library(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World),
    Log = gater_harness:log(Gateway),
    ?assertEqual(nomatch, binary:match(Log, <<"openraft">>), Log),
    %% The only warning is about the secret, which the operator can do something about.
    Warnings = [Line || Line <- lines(Log), binary:match(Line, <<"\"WARN\"">>) =/= nomatch],
    ?assertMatch([_], Warnings),
    ?assertMatch({_, _}, binary:match(hd(Warnings), <<"no secret is configured">>)),
    %% A start that fails says why, once, and no more.
    #{options := Options} = Gateway,
    Directory = filename:join(gater_harness:dir(World), maps:get(name, Options)),
    {error, {ended, 1, Text}} = gater_harness:launch(World, #{data_dir => Directory}),
    ?assertMatch({_, _}, binary:match(Text, <<"in use by another gateway">>), Text),
    ?assertEqual(nomatch, binary:match(Text, <<"\"ERROR\"">>), Text).

%%% Where it can be reached

a_gateway_listens_where_its_name_leads(Config) ->
    World = value(world, Config),
    Name = gater_harness:unique("named") ++ "@127.0.0.9",
    Gateway = #{port := Port} = gater_harness:gateway(World, #{name => Name}),
    ?assertEqual(nomatch, binary:match(gater_harness:log(Gateway), <<"where only nodes">>)),
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 9}, Port, []),
    gen_tcp:close(Socket),
    ?assertEqual({error, econnrefused}, gen_tcp:connect({127, 0, 0, 1}, Port, [])),
    ?assertEqual(pong, ping(value(beam, Config), Gateway)).

a_name_of_another_host_is_warned_of(Config) ->
    World = value(world, Config),
    %% An address for documentation, which no machine has.
    Name = gater_harness:unique("elsewhere") ++ "@192.0.2.1",
    Gateway = #{port := Port} = gater_harness:gateway(World, #{name => Name}),
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, []),
    gen_tcp:close(Socket),
    [_ | _] = [Line || Line <- lines(gater_harness:log(Gateway)),
                       binary:match(Line, <<"192.0.2.1: none of this machine's">>) =/= nomatch
                       orelse binary:match(Line, <<"none of this machine">>) =/= nomatch].

an_ipv6_gateway_and_node_find_each_other(Config) ->
    World = value(world, Config),
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {error, Reason} ->
            {skip, {"NO IPV6 ON THE LOOPBACK INTERFACE", Reason}};
        {ok, Listener} ->
            gen_tcp:close(Listener),
            Gateway = #{port := Port} =
                gater_harness:gateway(World, #{name => gater_harness:unique("six") ++ "@::1"}),
            {error, econnrefused} = gen_tcp:connect({127, 0, 0, 1}, Port, []),
            Beam = gater_harness:node(World, #{host => "::1", args => ["-proto_dist", "inet6_tcp"],
                                               modules => [?MODULE]}),
            ?assertEqual(pong, ping(Beam, Gateway)),
            %% The gateway dials it: another gateway is told of a worker there.
            {_, Pid} = gater_harness:agent(Beam),
            ok = gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, six, Pid}),
            gater_harness:on(Beam, fun() -> erlang:disconnect_node(maps:get(node, Gateway)) end),
            gater_harness:until(fun() ->
                gater_harness:on(Beam, fun() ->
                    lists:member(maps:get(node, Gateway), nodes(hidden)) end)
            end)
    end.

%%% Signals

a_hangup_has_the_secret_and_the_log_filter_read_again(Config) ->
    World = value(world, Config),
    Beam = value(beam, Config),
    File = fun(Secret, Filter) ->
        ["log = '", Filter, "'\n[security]\nhmac_secret = '", Secret, "'\n"]
    end,
    %% Variables count before the file.
    Gateway = #{options := #{name := Name}} = gater_harness:gateway(World,
        #{config => File("before", "warn"), env => [{"ESDB_GATER_LOG", false}]}),
    ?assertEqual(nomatch, binary:match(gater_harness:log(Gateway), <<"starting">>)),
    Publish = fun(Secret) ->
        gater_harness:on(Beam, fun() ->
            Message = signed(#{n => 1}, Secret),
            gen_server:call({?SECURITY, maps:get(node, Gateway)}, {publish, <<"t">>, Message})
        end)
    end,
    ?assertEqual(ok, Publish(<<"before">>)),
    ?assertEqual({error, invalid_signature}, Publish(<<"after">>)),
    Path = filename:join(gater_harness:dir(World), Name ++ ".toml"),
    ok = file:write_file(Path, File("after", "info")),
    gater_harness:signal(Gateway, "HUP"),
    gater_harness:until(fun() -> Publish(<<"after">>) =:= ok end),
    %% Messages under way were signed with the one before.
    ?assertEqual(ok, Publish(<<"before">>)),
    gater_harness:until(fun() ->
        binary:match(gater_harness:log(Gateway), <<"read again">>) =/= nomatch end),
    %% What cannot be used changes nothing.
    ok = file:write_file(Path, "log = 5\n"),
    gater_harness:signal(Gateway, "HUP"),
    gater_harness:until(fun() ->
        binary:match(gater_harness:log(Gateway), <<"stays as it was">>) =/= nomatch end),
    ?assertEqual(ok, Publish(<<"after">>)),
    ?assertEqual(nomatch, binary:match(gater_harness:log(Gateway), <<"hmac_secret">>)).

user_signals_are_ignored(Config) ->
    Gateway = value(gateway, Config),
    [gater_harness:signal(Gateway, Signal) || Signal <- ["USR1", "USR2"]],
    gater_harness:until(fun() -> 
        Log = gater_harness:log(Gateway),
        binary:match(Log, <<"SIGUSR1">>) =/= nomatch andalso binary:match(Log, <<"SIGUSR2">>) =/= nomatch
    end),
    ?assert(gater_harness:alive(Gateway)),
    ?assertEqual(pong, ping(value(beam, Config), Gateway)).

a_second_sigterm_ends_it_at_once(Config) ->
    World = value(world, Config),
    Gateway = #{port := Port} = gater_harness:gateway(World),
    Beam = value(beam, Config),
    Name = gater_harness:unique("slow") ++ "@127.0.0.1",
    {ok, Socket} = gater_wire:connect(Port, Name, gater_harness:cookie(World), #{creation => 77}),
    Pid = gater_wire:pid(Name, 5, 77),
    ok = gater_wire:call(Socket, Pid, ?EVENTS, {subscribe, <<"t">>, Pid}),
    %% More than the kernels hold, for a node that reads nothing: draining takes its 10 s.
    Part = binary:copy(<<7>>, 1 bsl 20),
    [ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {publish, <<"t">>, Part}) || _ <- lists:seq(1, 20)],
    gater_harness:signal(Gateway, "TERM"),
    gater_harness:until(fun() ->
        binary:match(gater_harness:log(Gateway), <<"draining">>) =/= nomatch end),
    ?assert(gater_harness:alive(Gateway)),
    Started = erlang:monotonic_time(millisecond),
    gater_harness:signal(Gateway, "TERM"),
    ?assertEqual(1, gater_harness:await_exit(World, Gateway)),
    ?assert(erlang:monotonic_time(millisecond) - Started < 5000),
    gen_tcp:close(Socket).

%%% Who is refused

other_protocols_are_named_in_the_log(Config) ->
    World = value(world, Config),
    [begin
         Gateway = #{port := Port} = gater_harness:gateway(World),
         Socket = gater_wire:open(Port),
         _ = gater_wire:send(Socket, Bytes),
         ok = gater_wire:await_close(Socket),
         gater_harness:until(fun() -> said(Gateway, "INFO", Named) end),
         ?assertMatch([_], lines_with(Gateway, Named))
     end || {Bytes, Named} <- [
         {<<22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3>>, <<"it speaks TLS">>},
         {<<"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n">>, <<"it speaks HTTP">>},
         {<<"noise noise noise">>, <<"it speaks no known protocol">>}]].

repeated_refusals_are_counted_and_not_repeated(Config) ->
    World = value(world, Config),
    Gateway = #{port := Port} = gater_harness:gateway(World),
    Name = gater_harness:unique("stranger") ++ "@127.0.0.1",
    [?assertMatch({error, _}, gater_wire:connect(Port, Name, "wrong")) || _ <- lists:seq(1, 50)],
    [begin
         Socket = gater_wire:open(Port),
         _ = gater_wire:send(Socket, <<"GET / HTTP/1.1\r\n\r\n">>),
         ok = gater_wire:await_close(Socket)
     end || _ <- lists:seq(1, 50)],
    gater_harness:until(fun() -> lines_with(Gateway, <<"it speaks HTTP">>) =/= [] end),
    ?assertEqual(1, length(lines_with(Gateway, <<"it speaks HTTP">>))),
    ?assertEqual(1, length(lines_with(Gateway, <<"wrong cookie">>))).

a_cookie_is_latin_1_as_for_erlang(Config) ->
    World = value(world, Config),
    Dir = gater_harness:dir(World),
    File = filename:join(Dir, "cookie-latin1"),
    Latin1 = [$c, $a, $f, 16#e9],
    [begin
         ok = file:write_file(File, Written),
         ok = file:change_mode(File, 8#600),
         Gateway = #{port := Port} = gater_harness:gateway(World,
             #{cookie_file => File, env => [{"LC_ALL", Locale}, {"ESDB_GATER_COOKIE_FILE", false}]}),
         Name = gater_harness:unique("cafe") ++ "@127.0.0.1",
         {ok, Socket} = gater_wire:connect(Port, Name, Latin1),
         gen_tcp:close(Socket),
         ?assertMatch({error, _}, gater_wire:connect(Port, Name, "cafe")),
         gater_harness:signal(Gateway, "TERM"),
         ?assertEqual(0, gater_harness:await_exit(World, Gateway))
     end || {Written, Locale} <- [{<<"caf", 16#e9>>, "C"}, {<<"caf", 16#c3, 16#a9>>, "C.UTF-8"}]],
    %% A real node that is given the same.
    ok = file:write_file(File, <<"caf", 16#c3, 16#a9>>),
    #{node := Gater} = gater_harness:gateway(World, #{cookie_file => File}),
    ?assertEqual(pong, gater_harness:on(value(beam, Config), fun() ->
        {ok, Peer, _} = peer:start(#{name => peer:random_name(), host => "127.0.0.1",
            longnames => true, connection => standard_io}),
        true = peer:call(Peer, erlang, set_cookie, [list_to_atom(Latin1)]),
        Answer = peer:call(Peer, net_adm, ping, [Gater]),
        peer:stop(Peer),
        Answer
    end)).

refused_messages_are_counted_by_channel_reason_and_node(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World,
        #{env => [{"ESDB_GATER_SECRET", "right"}],
          config => "[channels.slow]\nmax_rate = 1\n"}),
    Beam = #{node := Node} = value(beam, Config),
    Publish = fun(Channel, Message) ->
        gater_harness:call(Beam, {Channel, Gateway}, {publish, <<"t">>, Message})
    end,
    [{error, signature_required} = Publish(?SECURITY, #{n => N}) || N <- lists:seq(1, 5)],
    {error, invalid_signature} = Publish(?SECURITY, signed(#{n => 1}, <<"wrong">>)),
    ok = Publish(slow, 1),
    {error, rate_limited} = Publish(slow, 2),
    #{refused := Refused} = gater_harness:call(Beam, {esdb_gater_session, Gateway}, counts),
    Counts = [{Channel, Reason, Count} || #{channel := Channel, node := N, reason := Reason, count := Count}
                                              <- Refused, N =:= Node],
    ?assertEqual([{?SECURITY, invalid_signature, 1}, {?SECURITY, signature_required, 5},
                  {slow, rate_limited, 1}], lists:sort(Counts)),
    %% One line whenever a count has doubled.
    gater_harness:until(fun() -> said(Gateway, "INFO", <<"invalid_signature">>) end),
    ?assertEqual(3, length(lines_with(Gateway, <<"signature_required">>))),
    [?assertMatch({_, _}, binary:match(Line, atom_to_binary(Node)))
     || Line <- lines_with(Gateway, <<"signature_required">>)].

%%% What nodes send

system_messages_are_answered(Config) ->
    #{node := Gater} = Gateway = value(gateway, Config),
    Beam = value(beam, Config),
    [?assertMatch({'EXIT', _}, gater_harness:on(Beam, fun() -> catch Ask({Name, Gater}) end, 10000))
     || Name <- [?EVENTS, ?REGISTRY, esdb_gater_session, esdb_gater_gateway, net_kernel],
        Ask <- [fun gen_server:stop/1, fun sys:get_state/1,
                fun(To) -> {error, Reason} = sys:suspend(To), exit(Reason) end]],
    ?assertEqual({error, {unknown_system_msg, get_status}},
        gater_harness:on(Beam, fun() -> sys:get_status({?EVENTS, Gater}) end)),
    ?assertEqual(pong, ping(Beam, Gateway)).

a_term_too_deep_is_logged_with_its_sender(Config) ->
    World = value(world, Config),
    Gateway = #{node := Gater} = gater_harness:gateway(World),
    Beam = #{node := Node} = value(beam, Config),
    [begin
         pong = ping(Beam, Gateway),
         Sender = gater_harness:on(Beam, fun() ->
             true = monitor_node(Gater, true),
             Deep = lists:foldl(fun(_, Term) -> [Term] end, [], lists:seq(1, 20000)),
             Send(Gater, Deep),
             receive {nodedown, Gater} -> ok after 20000 -> exit(still_connected) end,
             pid_to_list(self())
         end),
         Named = iolist_to_binary([Sender, " of ", atom_to_list(Node)]),
         gater_harness:until(fun() -> lines_with(Gateway, Named) =/= [] end)
     end || Send <- [fun(G, Deep) -> {?EVENTS, G} ! Deep end,
                     fun(G, Deep) -> {?EVENTS, G} ! {'$gen_cast', {publish, <<"t">>, Deep}} end,
                     fun(G, Deep) -> {?EVENTS, G} ! {Deep, binary:copy(<<0>>, 200000)} end]].

a_data_directory_of_another_name_is_said(Config) ->
    World = value(world, Config),
    Gateway = #{options := Options, node := Before} = gater_harness:gateway(World),
    Directory = filename:join(gater_harness:dir(World), maps:get(name, Options)),
    gater_harness:signal(Gateway, "TERM"),
    0 = gater_harness:await_exit(World, Gateway),
    Other = gater_harness:gateway(World, #{data_dir => Directory}),
    ?assertEqual(1, length([Line || Line <- lines_with(Other, <<"used by a gateway of another name">>),
                                    binary:match(Line, atom_to_binary(Before)) =/= nomatch])),
    gater_harness:signal(Other, "TERM"),
    0 = gater_harness:await_exit(World, Other),
    #{options := #{name := Name}} = Other,
    Again = gater_harness:gateway(World, #{data_dir => Directory, name => Name}),
    ?assertEqual(1, length(lines_with(Again, <<"used by a gateway of another name">>))).

a_quiet_node_stays_connected(Config) ->
    World = value(world, Config),
    %% One node hears of a gateway more often than the gateway ticks, and one ticks less often than
    %% the gateway takes for a sign of life.
    Patient = gater_harness:gateway(World),
    Hasty = gater_harness:gateway(World, #{env => [{"ESDB_GATER_NET_TICKTIME", "4"}]}),
    %% With the ticks that one of the two sends in three periods, of which each has four.
    Cases = [{Patient, "4", 12}, {Patient, "8", 12}, {Hasty, "240", 12}, {Hasty, "3600", 12}],
    Beams = [begin
                 Beam = gater_harness:node(World, #{args => ["-kernel", "net_ticktime", Time],
                                                    modules => [?MODULE]}),
                 {_, Pid} = Agent = gater_harness:agent(Beam),
                 #{node := Gater} = Gateway,
                 gater_harness:in(Agent, fun() ->
                     pong = net_adm:ping(Gater),
                     true = monitor_node(Gater, true),
                     ok = gen_server:call({?EVENTS, Gater}, {subscribe, <<"t">>, Pid})
                 end),
                 {Gateway, Agent, Gater, Ticks, packets(Agent, Gater)}
             end || {Gateway, Time, Ticks} <- Cases],
    %% All of them are idle at the same time.
    [gater_harness:until(fun() ->
         Now = packets(Agent, Gater),
         Now =:= lost orelse lists:max(lists:zipwith(fun erlang:'-'/2, Now, Before)) >= Ticks
     end, 90000) || {_, Agent, Gater, Ticks, Before} <- Beams],
    [begin
         ?assertEqual([], [Lost || Lost = {nodedown, _} <- gater_harness:messages(Agent)], Gater),
         ?assertEqual([], lines_with(Gateway, <<"\"disconnected\"">>))
     end || {Gateway, Agent, Gater, _, _} <- Beams].

%% How many packets a node has received from a gateway and sent to it. An idle connection carries
%% ticks, each a packet.
packets(Agent, Gater) ->
    gater_harness:in(Agent, fun() ->
        case lists:keyfind(Gater, 1, erlang:system_info(dist_ctrl)) of
            {_, Port} ->
                {ok, Counts} = inet:getstat(Port, [recv_cnt, send_cnt]),
                [Count || {_, Count} <- lists:sort(Counts)];
            false ->
                lost
        end
    end).

%%% Helpers

ping(Beam, #{node := Gater}) ->
    gater_harness:on(Beam, fun() -> net_adm:ping(Gater) end).

info(Config, Gateway) ->
    gater_harness:call(value(beam, Config), {esdb_gater_session, Gateway}, info).

%% Signed as a client without the application does it.
signed(Message, Secret) ->
    Map = Message#{signed_at => os:system_time(second)},
    Bytes = term_to_binary(lists:sort(maps:to_list(Map)), [deterministic, {minor_version, 2}]),
    Map#{signature => base64:encode(crypto:mac(hmac, sha256, Secret, Bytes))}.

lines(Log) -> binary:split(Log, <<"\n">>, [global, trim_all]).

lines_with(Gateway, Text) ->
    [Line || Line <- lines(gater_harness:log(Gateway)), binary:match(Line, Text) =/= nomatch].

said(Gateway, Level, Text) ->
    lists:any(fun(Line) -> binary:match(Line, iolist_to_binary(["\"", Level, "\""])) =/= nomatch end,
              lines_with(Gateway, Text)).

value(Key, Config) -> proplists:get_value(Key, Config).
