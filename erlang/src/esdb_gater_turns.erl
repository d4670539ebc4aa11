%%% @private
%%% @doc Functions that run one at a time on this node.
%%%
%%% A process that is registered under the name of a kind of turn runs them, in the order in which
%%% they were asked for. It is started by whoever finds none, and ends as soon as nobody waits, so
%%% that nothing is left behind and the application need not run. Of several that are started at
%%% the same time, one can be registered. Nobody sleeps: a caller waits for those before it and
%%% for nothing else.
%%% @end
-module(esdb_gater_turns).

-export([run/2]).

%% @doc Returns what `Fun' returns, or raises what it raises. `Fun' runs in another process than
%% the caller's, and may itself take turns of the same name.
-spec run(Name :: atom(), fun(() -> Result)) -> Result.
run(Name, Fun) ->
    case whereis(Name) of
        Self when Self =:= self() -> Fun();
        undefined -> start(Name, Fun);
        Pid -> ask(Pid, Name, Fun)
    end.

start(Name, Fun) ->
    Turn = {turn, self(), make_ref(), Fun},
    {Pid, Monitor} = spawn_monitor(fun() -> open(Name, Turn) end),
    await(Pid, Monitor, Turn, Name).

ask(Pid, Name, Fun) ->
    Monitor = monitor(process, Pid),
    Turn = {turn, self(), Monitor, Fun},
    _ = Pid ! Turn,
    await(Pid, Monitor, Turn, Name).

await(Pid, Monitor, {turn, _, Tag, Fun}, Name) ->
    receive
        {Tag, Outcome} ->
            demonitor(Monitor, [flush]),
            outcome(Outcome);
        {'DOWN', Monitor, process, Pid, Reason} when Reason =:= normal; Reason =:= noproc ->
            %% It was not the one, or it ended before it was asked.
            run(Name, Fun);
        {'DOWN', Monitor, process, Pid, Reason} ->
            %% Killed, perhaps in the middle of the function, which must not be repeated.
            exit(Reason)
    end.

outcome({returned, Result}) -> Result;
outcome({raised, Class, Reason, Stack}) -> erlang:raise(Class, Reason, Stack).

open(Name, First) ->
    try register(Name, self()) of
        true -> serve(First)
    catch
        error:badarg -> ok                      % another one was faster
    end.

serve({turn, From, Tag, Fun}) ->
    From ! {Tag, turn(Fun)},
    receive
        {turn, _, _, _} = Next -> serve(Next)
    after 0 ->
        ok
    end.

turn(Fun) ->
    try {returned, Fun()}
    catch Class:Reason:Stack -> {raised, Class, Reason, Stack}
    end.
