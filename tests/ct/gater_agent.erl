%% @doc A process that keeps every message it is sent and runs functions on demand: the workers,
%% subscribers and callers of the tests.
-module(gater_agent).

-export([start/0, run/2, messages/1, flush/1]).

%% @doc Starts an agent that lives until it is killed or its node ends.
-spec start() -> pid().
start() -> spawn(fun() -> loop([]) end).

%% @doc Runs a function in an agent of this node.
-spec run(pid(), fun(() -> Result)) -> Result.
run(Agent, Fun) ->
    case ask(Agent, {run, Fun}) of
        {ok, Result} -> Result;
        {Class, Reason, Stack} -> erlang:raise(Class, Reason, Stack)
    end.

%% @doc What an agent was sent so far, in order.
-spec messages(pid()) -> [term()].
messages(Agent) -> ask(Agent, messages).

%% @doc As `messages/1', and forgets them.
-spec flush(pid()) -> [term()].
flush(Agent) -> ask(Agent, flush).

ask(Agent, Request) ->
    Monitor = monitor(process, Agent),
    Agent ! {?MODULE, self(), Monitor, Request},
    receive
        {Monitor, Answer} -> demonitor(Monitor, [flush]), Answer;
        {'DOWN', Monitor, _, _, Reason} -> error({agent_ended, Reason})
    end.

loop(Kept) ->
    receive
        {?MODULE, From, Tag, Request} -> serve(Request, From, Tag, Kept);
        Message -> loop([Message | Kept])
    end.

serve({run, Fun}, From, Tag, Kept) ->
    From ! {Tag, try {ok, Fun()} catch Class:Reason:Stack -> {Class, Reason, Stack} end},
    loop(Kept);
serve(messages, From, Tag, Kept) ->
    From ! {Tag, lists:reverse(Kept)},
    loop(Kept);
serve(flush, From, Tag, Kept) ->
    From ! {Tag, lists:reverse(Kept)},
    loop([]).
