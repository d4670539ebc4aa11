%%% @private
%%% @doc Runs functions one at a time on this node.
%%%
%%% A process that is registered under a name for each kind of turn runs the functions in the order
%%% of the requests. The first caller starts it, and it ends as soon as no caller waits, so that
%%% nothing is left behind and the application need not run. If several are started at the same
%%% time, only one of them can register. Nothing polls: a caller waits only for the callers before
%%% it.
%%% @end
-module(esdb_gater_turns).

-export([run/2]).

%% @doc Runs `Fun' in another process. Returns its result, or raises its exception. `Fun' may itself
%% take turns of the same name.
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
            %% The process did not get the name, or it ended before the request.
            run(Name, Fun);
        {'DOWN', Monitor, process, Pid, Reason} ->
            %% The process was killed, perhaps while the function ran, which must not be repeated.
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
