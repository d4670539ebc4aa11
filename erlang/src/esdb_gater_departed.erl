%%% @private
%%% @doc Gateways that were in use and are not any more.
%%%
%%% A gateway keeps subscriptions over a lost connection, and connects again by itself. When
%%% another has taken over meanwhile, what is published at both would come twice, and messages of
%%% both sessions would mix; so this node takes leave of it when it shows up again.
%%%
%%% Pure, and bounded: embedded gateways have ever new names, and most of them never come back.
%%% @end
-module(esdb_gater_departed).

-export([new/0, add/2, remove/2, member/2]).

-export_type([departed/0]).

-opaque departed() :: #{node() => []}.

-define(MOST, 64).

%% @doc There are none.
-spec new() -> departed().
new() -> #{}.

%% @doc One more.
-spec add(node(), departed()) -> departed().
add(Node, Departed) when map_size(Departed) < ?MOST ->
    Departed#{Node => []};
add(Node, Departed) ->
    [Other | _] = maps:keys(Departed),
    (maps:remove(Other, Departed))#{Node => []}.

%% @doc It is in use again, or has been left.
-spec remove(node(), departed()) -> departed().
remove(Node, Departed) -> maps:remove(Node, Departed).

%% @doc Whether it was in use and is not.
-spec member(node(), departed()) -> boolean().
member(Node, Departed) -> is_map_key(Node, Departed).
