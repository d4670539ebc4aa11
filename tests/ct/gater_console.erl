%% @doc A real `erl' of one OTP release that runs the application, and what its console shows.
%%
%% The application is compiled by that release itself: a release does not load every module that
%% another one has compiled. A console ends with the process that started it.
-module(gater_console).

-export([application/1, remove/1, start/3, text/1, await/2, count/2, write/2, stop/1]).

-type otp() :: 25 | 27 | 29.
-type installed() :: #{otp := otp(), root := file:filename(), lib := file:filename()}.
-type console() :: pid().

-export_type([installed/0, console/0]).

%% @doc Compiles the application with the compiler of a release, into a folder of its system.
-spec application(otp()) -> installed().
application(Otp) ->
    Root = root(Otp),
    Lib = filename:join(["/tmp", gater_harness:unique("gater_console"), "erl_esdb_gater"]),
    Out = Root ++ Lib,
    Installed = #{otp => Otp, root => Root, lib => Lib},
    [ok = filelib:ensure_dir(filename:join([Out, Dir, "x"])) || Dir <- ["src", "include", "ebin"]],
    Erlang = filename:join(gater_root(), "erlang"),
    [{ok, _} = file:copy(File, filename:join([Out, Dir, filename:basename(File)]))
     || Dir <- ["src", "include"], File <- filelib:wildcard(filename:join([Erlang, Dir, "*.[eh]rl"]))],
    "" = run(Installed, "cd " ++ Lib ++ "/src && erlc +debug_info -o ../ebin *.erl 2>&1"),
    ok = application_file(Erlang, Out),
    Installed.

%% @doc Removes what `application/1' made.
-spec remove(installed()) -> ok.
remove(#{root := Root, lib := Lib}) ->
    ok = file:del_dir_r(Root ++ filename:dirname(Lib)).

application_file(Erlang, Out) ->
    {ok, [{application, App, Keys}]} =
        file:consult(filename:join([Erlang, "src", "erl_esdb_gater.app.src"])),
    Modules = [list_to_atom(filename:basename(Beam, ".beam"))
               || Beam <- filelib:wildcard(filename:join([Out, "ebin", "*.beam"]))],
    Complete = lists:keystore(modules, 1, Keys, {modules, Modules}),
    file:write_file(filename:join([Out, "ebin", "erl_esdb_gater.app"]),
                    io_lib:format("~tp.~n", [{application, App, Complete}])).

%% @doc Starts `erl' with `Arguments'; `Expression' is evaluated there.
-spec start(installed(), [string()], string()) -> console().
start(#{lib := Lib} = Installed, Arguments, Expression) ->
    {Program, First} = command(Installed),
    Self = self(),
    Options = [{args, First ++ ["-noshell", "-pa", Lib ++ "/ebin" | Arguments]
                      ++ ["-eval", Expression]},
               binary, exit_status, stderr_to_stdout, use_stdio],
    spawn_link(fun() ->
                   Monitor = monitor(process, Self),
                   Port = open_port({spawn_executable, Program}, Options),
                   {os_pid, OsPid} = erlang:port_info(Port, os_pid),
                   reading(Port, OsPid, Monitor, <<>>)
               end).

reading(Port, OsPid, Monitor, Text) ->
    receive
        {Port, {data, More}} -> reading(Port, OsPid, Monitor, <<Text/binary, More/binary>>);
        {Port, {exit_status, Status}} ->
            End = integer_to_binary(Status),
            reading(Port, OsPid, Monitor, <<Text/binary, "\nended with ", End/binary, "\n">>);
        {From, Ref, text} -> From ! {Ref, Text}, reading(Port, OsPid, Monitor, Text);
        {From, Ref, {write, Data}} ->
            true = port_command(Port, Data),
            From ! {Ref, ok},
            reading(Port, OsPid, Monitor, Text);
        {From, Ref, stop} -> finish(OsPid), From ! {Ref, Text};
        {'DOWN', Monitor, _, _, _} -> finish(OsPid)
    end.

finish(OsPid) -> os:cmd("kill -KILL " ++ integer_to_list(OsPid)).

%% @doc What the console has shown so far.
-spec text(console()) -> binary().
text(Console) -> ask(Console, text).

%% @doc Writes to the standard input of the console.
-spec write(console(), iodata()) -> ok.
write(Console, Data) -> ask(Console, {write, Data}).

%% @doc Kills it. Returns what it has shown.
-spec stop(console()) -> binary().
stop(Console) -> ask(Console, stop).

%% @doc Waits until the console has shown each of some texts.
-spec await(console(), [unicode:chardata()]) -> ok.
await(Console, Texts) ->
    try gater_harness:until(fun() -> [T || T <- Texts, count(Console, T) =:= 0] =:= [] end)
    catch error:{never_happened, _} ->
        Shown = text(Console),
        error({never_shown, [T || T <- Texts, count(Console, T) =:= 0], Shown})
    end.

%% @doc How often the console has shown a text, line breaks counting as spaces.
-spec count(console(), unicode:chardata()) -> non_neg_integer().
count(Console, Text) ->
    Shown = re:replace(text(Console), "\\s+", " ", [global, {return, binary}]),
    length(binary:matches(Shown, unicode:characters_to_binary(Text))).

ask(Console, Request) ->
    Ref = monitor(process, Console),
    Console ! {self(), Ref, Request},
    receive
        {Ref, Answer} -> demonitor(Ref, [flush]), Answer;
        {'DOWN', Ref, _, _, Reason} -> error({console_ended, Reason})
    end.

%% Commands of the release.
run(#{root := ""}, Command) -> os:cmd(Command);
run(#{root := Root}, Command) -> os:cmd("chroot " ++ Root ++ " sh -c '" ++ Command ++ "'").

command(#{root := ""}) -> {os:find_executable("erl"), []};
command(#{root := Root}) -> {os:find_executable("chroot"), [Root, "/usr/bin/erl"]}.

root(25) -> "";
root(27) -> {ok, Root} = gater_harness:otp27(), Root.

gater_root() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.
