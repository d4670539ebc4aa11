%% @doc A real `erl' of one OTP release that has the application, and what its console shows. A
%% console ends with the process that started it.
-module(gater_console).

-export([start/3, text/1, await/2, count/2, write/2, stop/1]).
-export_type([console/0]).

-type console() :: pid().

%% @doc Starts `erl' of a release with `Arguments'; `Expression' is evaluated there.
-spec start(Otp :: pos_integer(), [string()], string()) -> console().
start(Otp, Arguments, Expression) ->
    {{Program, First}, Application} = release(Otp),
    Self = self(),
    Options = [{args, First ++ ["-noshell", "-pa", filename:join(Application, "ebin") | Arguments]
                      ++ ["-eval", Expression]},
               binary, exit_status, stderr_to_stdout, use_stdio],
    spawn_link(fun() ->
                   Monitor = monitor(process, Self),
                   Port = open_port({spawn_executable, Program}, Options),
                   {os_pid, OsPid} = erlang:port_info(Port, os_pid),
                   reading(Port, OsPid, Monitor, <<>>)
               end).

release(25) ->
    {{os:find_executable("erl"), []},
     filename:join([gater_root(), "_build", "default", "lib", "erl_esdb_gater"])};
release(Otp) ->
    {gater_release:command(Otp), gater_release:shim(Otp)}.

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

gater_root() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.
