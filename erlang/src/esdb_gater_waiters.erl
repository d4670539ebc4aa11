%%% @private
%%% @doc Callers of the link that wait for a gateway, for the first registry, or, at the start of
%%% the application, until it is known whether there is a gateway. The module is pure: {@link
%%% esdb_gater_link_core} has their timers set and the returned answers sent.
%%%
%%% Their calls are not postponed events of the link, because each has a time limit of its own.
%%% @end
-module(esdb_gater_waiters).

-export([new/0, add/3, wake/2, give_up/1, expire/2]).

-export_type([waiters/0, what/0, answer/0]).

-type what() :: mirror | gateway | start.
-type answer() :: {gen_statem:from(), ok | {ok, node()} | {error, no_gateway}}.
-opaque waiters() :: #{gen_statem:from() => what()}.

%% @doc Returns a value without callers.
-spec new() -> waiters().
new() -> #{}.

%% @doc Adds a caller that waits for `What'.
-spec add(what(), gen_statem:from(), waiters()) -> waiters().
add(What, From, Waiters) ->
    Waiters#{From => What}.

%% @doc Answers all callers, since there is a gateway.
-spec wake(node(), waiters()) -> {[answer()], waiters()}.
wake(Gateway, Waiters) ->
    {[case What of
          gateway -> {From, {ok, Gateway}};
          _ -> {From, ok}
      end || {From, What} <- maps:to_list(Waiters)], new()}.

%% @doc Answers the callers that start the application, since no gateway is within reach.
-spec give_up(waiters()) -> {[answer()], waiters()}.
give_up(Waiters) ->
    {[{From, {error, no_gateway}} || {From, start} <- maps:to_list(Waiters)],
     maps:filter(fun(_, What) -> What =/= start end, Waiters)}.

%% @doc Answers a caller whose time is over.
-spec expire(gen_statem:from(), waiters()) -> {[answer()], waiters()}.
expire(From, Waiters) ->
    case Waiters of
        #{From := _} -> {[{From, {error, no_gateway}}], maps:remove(From, Waiters)};
        _ -> {[], Waiters}
    end.
