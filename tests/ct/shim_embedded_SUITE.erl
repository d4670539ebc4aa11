%% @doc The gateway that a node runs for itself: what it leaves behind, what it follows and what
%% it says.
-module(shim_embedded_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_group/2, end_per_group/2,
         init_per_testcase/2, end_per_testcase/2]).
%% A logger handler.
-export([log/2]).
-export([no_file_is_written/1, it_works_where_no_folder_is_writable/1,
         a_data_directory_is_kept_and_used_again/1,
         secret_and_cookie_are_in_no_argument_and_no_environment/1,
         nothing_that_is_logged_shows_secret_or_cookie/1,
         a_changed_cookie_is_followed/1,
         over_ipv6_nodes_share_a_gateway/1, short_names_need_no_localhost/1,
         a_protocol_it_does_not_speak_is_named_once/1,
         a_refused_configuration_is_reported_once_and_not_retried/1,
         a_node_whose_program_refuses_uses_that_of_another/1,
         a_halt_at_any_moment_leaves_nothing_behind/1]).

-define(EVENTS, esdb_channel_events).
-define(SECRET, <<"a secret that no log may show">>).
-define(COOKIE, a_cookie_that_no_log_may_show).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, own}, {group, otp25}, {group, otp27}, {group, otp29}].

%% Those of `own' need a system that the tests can change.
groups() ->
    Everywhere = [no_file_is_written, a_data_directory_is_kept_and_used_again,
                  secret_and_cookie_are_in_no_argument_and_no_environment,
                  nothing_that_is_logged_shows_secret_or_cookie, a_changed_cookie_is_followed,
                  over_ipv6_nodes_share_a_gateway, a_protocol_it_does_not_speak_is_named_once,
                  a_refused_configuration_is_reported_once_and_not_retried,
                  a_node_whose_program_refuses_uses_that_of_another,
                  a_halt_at_any_moment_leaves_nothing_behind],
    [{own, [it_works_where_no_folder_is_writable, short_names_need_no_localhost]}
     | [{Release, Everywhere} || Release <- [otp25, otp27, otp29]]].

init_per_group(own, Config) -> gater_harness:on_release(otp25, Config);
init_per_group(Release, Config) -> gater_harness:on_release(Release, Config).

end_per_group(_Group, _Config) -> ok.

init_per_testcase(_Case, Config) ->
    World = gater_harness:new(),
    {Root, Dir} = case value(otp, Config) of
                      25 -> {"", filename:absname(gater_harness:dir(World))};
                      Otp -> {ok, System} = gater_release:root(Otp),
                             {System, filename:join("/tmp", gater_harness:unique("gater_embedded"))}
                  end,
    %% A program of its own, to be told from that of others.
    Program = filename:join(Dir, "esdb-gater"),
    ok = filelib:ensure_dir(Root ++ Program),
    {ok, _} = file:copy(gater_shim:program(), Root ++ Program),
    ok = file:change_mode(Root ++ Program, 8#755),
    [{world, World}, {root, Root}, {dir, Dir}, {program, Program} | Config].

end_per_testcase(_Case, Config) ->
    gater_harness:stop(value(world, Config)),
    case value(root, Config) of
        "" -> ok;
        Root -> file:del_dir_r(Root ++ value(dir, Config))
    end.

%%% Files

no_file_is_written(Config) ->
    Dir = folder(Config),
    Beam = beam(Config, #{args => ["-env", "TMPDIR", Dir, "-env", "HOME", Dir,
                                   "-env", "XDG_STATE_HOME", Dir]}),
    ok = start(Config, Beam),
    works(Beam),
    {ok, Program} = on(Beam, fun esdb_gater_port:os_pid/0),
    ?assertEqual([], written_files(Program)),
    ok = on(Beam, fun() -> application:stop(erl_esdb_gater) end),
    {ok, []} = file:list_dir(value(root, Config) ++ Dir),
    stop(Config, [Beam]).

%% The files that a process has open for writing, pipes and devices apart.
written_files(Id) ->
    Folder = "/proc/" ++ integer_to_list(Id) ++ "/fd",
    {ok, Names} = file:list_dir(Folder),
    %% Where this node's own standard error goes is none of its doing.
    {ok, Error} = file:read_link(filename:join(Folder, "2")),
    Links = [Link || Name <- Names,
                     {ok, Link} <- [file:read_link(filename:join(Folder, Name))]],
    [Link || "/" ++ _ = Link <- Links, not lists:prefix("/dev/", Link), Link =/= Error].

it_works_where_no_folder_is_writable(Config) ->
    Script = "mount -o remount,bind,ro / && exec \"$@\"",
    Via = [os:find_executable("unshare"), "--mount", "--propagation", "private",
           "sh", "-c", Script, "sh"],
    Beam = beam(Config, #{via => Via}),
    {error, erofs} = on(Beam, fun() -> file:write_file("/tmp/x", <<>>) end),
    ok = start(Config, Beam),
    works(Beam),
    stop(Config, [Beam]).

a_data_directory_is_kept_and_used_again(Config) ->
    Dir = filename:join(folder(Config), "data"),
    Beam = beam(Config),
    ok = start(Config, Beam, [{data_dir, Dir}]),
    works(Beam),
    {ok, Files} = file:list_dir(value(root, Config) ++ Dir),
    true = lists:member("registry.lock", Files),
    ok = on(Beam, fun() -> application:stop(erl_esdb_gater) end),
    ok = start(Config, Beam, [{data_dir, Dir}]),
    works(Beam),
    stop(Config, [Beam]).

%%% Secret and cookie

secret_and_cookie_are_in_no_argument_and_no_environment(Config) ->
    Beam = beam(Config),
    ok = start(Config, Beam, [{security, [{hmac_secret, ?SECRET}]}]),
    works(Beam),
    {ok, Program} = on(Beam, fun esdb_gater_port:os_pid/0),
    Cookie = list_to_binary(gater_harness:cookie(value(world, Config))),
    [begin
         {ok, Text} = file:read_file(filename:join(["/proc", integer_to_list(Program), Name])),
         ?assertNotEqual(<<>>, Text),
         ?assertEqual(nomatch, binary:match(Text, [?SECRET, Cookie]))
     end || Name <- ["cmdline", "environ"]],
    %% It has it even so: what is signed here is taken there.
    ok = on(Beam, fun() ->
        Signed = esdb_pubsub_security:sign(#{a => 1}),
        esdb_channel_server:publish(esdb_channel_alerts, <<"t">>, Signed)
    end),
    stop(Config, [Beam]).

nothing_that_is_logged_shows_secret_or_cookie(Config) ->
    Beam = beam(Config),
    Log = on(Beam, fun() ->
        true = erlang:set_cookie(?COOKIE),
        Agent = gater_agent:start(),
        ok = logger:set_primary_config(level, debug),
        ok = logger:add_handler(all_of_it, ?MODULE, #{level => debug, agent => Agent,
                                                      filters => [], filter_default => log}),
        Agent
    end),
    ok = start(Config, Beam, [{security, [{hmac_secret, ?SECRET}]}]),
    works(Beam),
    on(Beam, fun() ->
        ok = esdb_pubsub_security:set_secret(?SECRET),
        Names = [Name || Name <- registered(), is_ours(Name)],
        true = lists:member(esdb_gater_port, Names),
        [begin
             Log ! {status, Name, status(Name)},
             [begin
                  %% The top of the application takes the application with it.
                  gater_harness:until(fun() ->
                      _ = application:ensure_all_started(erl_esdb_gater),
                      is_pid(whereis(Name))
                  end),
                  Pid = whereis(Name),
                  ok = How(Pid),
                  gater_harness:until(fun() -> whereis(Name) =/= Pid end)
              end || How <- [fun crash/1, fun(Pid) -> exit(Pid, kill), ok end]]
         end || Name <- Names]
    end),
    works(Beam),
    ok = on(Beam, fun() -> application:stop(erl_esdb_gater) end),
    Shown = on(Beam, fun() ->
        ok = logger:remove_handler(all_of_it),
        gater_agent:messages(Log)
    end),
    Text = unicode:characters_to_binary(io_lib:format("~p~n~0p~n~w", [Shown, Shown, Shown])),
    %% It has seen what it was to see.
    [?assertNotEqual(nomatch, binary:match(Text, Seen))
     || Seen <- [<<"esdb_gater_port">>, <<"child_terminated">>, <<"crash_report">>, <<"progress">>]],
    Codes = iolist_to_binary(lists:join(",", [integer_to_binary(C) || <<C>> <= ?SECRET])),
    [?assertEqual({Hidden, nomatch}, {Hidden, binary:match(Text, Hidden)})
     || Hidden <- [?SECRET, Codes, base64:encode(?SECRET), atom_to_binary(?COOKIE)]],
    stop(Config, [Beam]).

%% @private
log(Event, #{agent := Agent}) ->
    Agent ! {event, Event}.

is_ours(Name) ->
    lists:prefix("esdb_", atom_to_list(Name)) orelse lists:prefix("erl_esdb_", atom_to_list(Name)).

status(Name) ->
    try sys:get_status(Name, 5000)
    catch exit:Reason -> Reason
    end.

%% It ends with a report of its own, or is killed if it takes no system message.
crash(Pid) ->
    try sys:terminate(Pid, crashed_by_test, 5000)
    catch exit:_ -> exit(Pid, kill)
    end,
    ok.

a_changed_cookie_is_followed(Config) ->
    Host = beam(Config),
    ok = start(Config, Host),
    works(Host),
    New = list_to_atom(gater_harness:unique("new_cookie")),
    true = on(Host, fun() -> erlang:set_cookie(New) end),
    %% One that knows the new cookie only: it uses the gateway that runs already.
    Guest = beam(Config),
    true = on(Guest, fun() -> erlang:set_cookie(New) end),
    #{node := HostNode} = Host,
    gater_harness:until(fun() ->
        on(Guest, fun() -> net_kernel:connect_node(HostNode) end)
    end),
    ok = start(Config, Guest),
    gater_harness:until(fun() -> gateway(Guest) =:= gateway(Host) end),
    none = on(Guest, fun esdb_gater_port:os_pid/0),
    reach_each_other(Host, Guest),
    stop(Config, [Guest, Host]).

%%% Kinds of distribution

over_ipv6_nodes_share_a_gateway(Config) ->
    Options = #{host => "::1", args => ["-proto_dist", "inet6_tcp"]},
    [A, B] = Beams = [beam(Config, Options) || _ <- [1, 2]],
    #{node := NodeA} = A,
    true = on(B, fun() -> net_kernel:connect_node(NodeA) end),
    [ok = start(Config, Beam) || Beam <- Beams],
    gater_harness:until(fun() -> gateway(A) =:= gateway(B) end),
    reach_each_other(A, B),
    stop(Config, Beams).

short_names_need_no_localhost(Config) ->
    Dir = folder(Config),
    Hosts = filename:join(Dir, "hosts"),
    ok = file:write_file(Hosts, "127.0.0.1 shorthost\n"),
    Switch = filename:join(Dir, "nsswitch.conf"),
    ok = file:write_file(Switch, "hosts: files\n"),
    Script = "mount --bind " ++ Hosts ++ " /etc/hosts && "
        "touch /etc/nsswitch.conf && mount --bind " ++ Switch ++ " /etc/nsswitch.conf && "
        "exec \"$@\"",
    Via = [os:find_executable("unshare"), "--mount", "--propagation", "private",
           "sh", "-c", Script, "sh"],
    Beam = beam(Config, #{via => Via, host => "shorthost", longnames => false}),
    {error, _} = on(Beam, fun() -> inet:getaddr("localhost", inet) end),
    ok = start(Config, Beam),
    works(Beam),
    stop(Config, [Beam]).

a_protocol_it_does_not_speak_is_named_once(Config) ->
    Beam = beam(Config, #{args => ["-proto_dist", "inet_tls"]}),
    Log = logged(Beam),
    ok = start(Config, Beam),
    at_once_no_gateway(Beam),
    said_once(Beam, Log, <<"inet_tls">>),
    stop(Config, [Beam]).

%%% A program that refuses

a_refused_configuration_is_reported_once_and_not_retried(Config) ->
    Beam = beam(Config, #{args => ["-env", "ESDB_GATER_LOG", "no=such=filter"]}),
    Log = logged(Beam),
    ok = start(Config, Beam),
    at_once_no_gateway(Beam),
    said_once(Beam, Log, <<"ESDB_GATER_LOG">>),
    %% It is not started again, however long one waits; its pauses would begin with 50 ms.
    Until = erlang:monotonic_time(millisecond) + 1000,
    gater_harness:until(fun() ->
        [] = programs(Config),
        erlang:monotonic_time(millisecond) > Until
    end),
    said_once(Beam, Log, <<"ESDB_GATER_LOG">>),
    stop(Config, [Beam]).

a_node_whose_program_refuses_uses_that_of_another(Config) ->
    Refusing = beam(Config, #{args => ["-env", "ESDB_GATER_LOG", "no=such=filter"]}),
    ok = start(Config, Refusing),
    at_once_no_gateway(Refusing),
    Host = beam(Config),
    ok = start(Config, Host),
    #{node := HostNode} = Host,
    true = on(Refusing, fun() -> net_kernel:connect_node(HostNode) end),
    gater_harness:until(fun() ->
        gateway(Host) =/= none andalso gateway(Refusing) =:= gateway(Host)
    end),
    reach_each_other(Host, Refusing),
    stop(Config, [Refusing, Host]).

at_once_no_gateway(Beam) ->
    on(Beam, fun() ->
        gater_harness:until(fun esdb_gater_link:is_hopeless/0),
        {Took, Answers} = timer:tc(fun() ->
            [esdb_gater_api:register_worker(store, spawn(fun gater_shim:echo/0)),
             esdb_channel_server:subscribe(?EVENTS, <<"t">>, self()),
             esdb_channel_server:publish(?EVENTS, <<"t">>, m)]
        end),
        ?assertEqual([{error, no_gateway}], lists:usort(Answers)),
        ?assert(Took < 1000000, Took)
    end).

logged(Beam) ->
    on(Beam, fun() ->
        Agent = gater_agent:start(),
        ok = logger:add_handler(errors, ?MODULE, #{level => error, agent => Agent}),
        Agent
    end).

said_once(Beam, Log, What) ->
    Count = fun() ->
        Text = [logger_formatter:format(Event, #{}) || {event, Event} <- gater_agent:messages(Log)],
        length(binary:matches(unicode:characters_to_binary(Text), What))
    end,
    on(Beam, fun() ->
        gater_harness:until(fun() -> Count() > 0 end),
        ?assertEqual(1, Count())
    end).

%%% The end of the node

a_halt_at_any_moment_leaves_nothing_behind(Config) ->
    Dir = folder(Config),
    {Erl, First, Ebin} =
        case value(otp, Config) of
            25 -> {os:find_executable("erl"), [], filename:dirname(code:which(esdb_gater_port))};
            Otp -> {Chroot, Arguments} = gater_release:command(Otp),
                   {Chroot, Arguments, filename:join(gater_release:shim(Otp), "ebin")}
        end,
    [begin
         Start = io_lib:format(
             "ok = application:load(erl_esdb_gater), "
             "application:set_env(erl_esdb_gater, program, ~p), "
             "{ok, _} = application:ensure_all_started(erl_esdb_gater), "
             "timer:sleep(~b), erlang:halt(0, [{flush, false}])", [value(program, Config), Ms]),
         Port = open_port({spawn_executable, Erl},
                          [{args, First ++ ["-noinput", "-pa", Ebin, "-eval", lists:flatten(Start)
                                            | Name]},
                           {env, [{"TMPDIR", Dir}, {"HOME", Dir}]}, exit_status, stderr_to_stdout]),
         gater_harness:until(fun() ->
             receive {Port, {exit_status, Status}} -> Status =:= 0 orelse error(Status)
             after 0 -> false
             end
         end),
         gater_harness:until(fun() -> programs(Config) =:= [] end),
         ?assertEqual({ok, []}, file:list_dir(value(root, Config) ++ Dir))
     end || Ms <- [0, 10, 50],
            Name <- [[], ["-name", gater_harness:unique("halts") ++ "@127.0.0.1",
                          "-setcookie", "halting"]]].

%%% Helpers

%% The processes that run this suite's copy of the program.
programs(Config) ->
    Program = value(root, Config) ++ value(program, Config),
    [Id || Id <- filelib:wildcard("[0-9]*", "/proc"),
           file:read_link(filename:join(["/proc", Id, "exe"])) =:= {ok, Program}].

%% An empty folder, as a node of the release sees it.
folder(Config) ->
    Dir = filename:join(value(dir, Config), gater_harness:unique("folder")),
    ok = filelib:ensure_dir(value(root, Config) ++ filename:join(Dir, "x")),
    Dir.

beam(Config) -> beam(Config, #{}).

beam(Config, Options) ->
    gater_shim:node(value(world, Config), [?MODULE], Options#{otp => value(otp, Config)}).

start(Config, Beam) -> start(Config, Beam, []).

start(Config, Beam, Env) ->
    gater_shim:start(Beam, [{program, value(program, Config)} | Env]).

stop(Config, Beams) when is_list(Beams) ->
    [gater_harness:kill_node(value(world, Config), Beam) || Beam <- Beams],
    gater_harness:until(fun() -> programs(Config) =:= [] end).

gateway(Beam) ->
    case on(Beam, fun esdb_gater_link:gateway/0) of
        {ok, Gateway} -> Gateway;
        none -> none
    end.

works(Beam) ->
    on(Beam, fun() ->
        gater_harness:until(fun() ->
            Worker = spawn(fun gater_shim:echo/0),
            esdb_gater_api:register_worker(works, Worker) =:= ok andalso
                exit(Worker, kill)
        end)
    end).

%% What one publishes the other's subscriber is sent, in both directions.
reach_each_other(One, Other) ->
    [begin
         Reader = gater_harness:agent(To),
         {_, Pid} = Reader,
         ok = on(To, fun() -> esdb_channel_server:subscribe(?EVENTS, <<"both">>, Pid) end),
         ok = on(From, fun() -> esdb_channel_server:publish(?EVENTS, <<"both">>, hello) end),
         gater_harness:until(fun() ->
             gater_harness:messages(Reader) =:= [{channel_message, ?EVENTS, <<"both">>, hello}]
         end)
     end || {From, To} <- [{One, Other}, {Other, One}]].

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

value(Key, Config) -> proplists:get_value(Key, Config).
