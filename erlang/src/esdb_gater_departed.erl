%%% @private
%%% @doc Departed gateways: gateways that this node has used and does not use any more.
%%%
%%% A gateway keeps subscriptions after a lost connection, and connects again by itself. If another
%%% gateway has taken over in the meantime, messages that are published at both would arrive twice,
%%% and the messages of both sessions would mix. This node therefore ends its session with a
%%% departed gateway when that connects again.
%%%
%%% The module is pure. The set is bounded, since embedded gateways always have new names, and most
%%% of them never return.
%%% @end
-module(esdb_gater_departed).

-export([new/0, add/2, remove/2, member/2]).

-export_type([departed/0]).

-opaque departed() :: #{node() => []}.

-define(MOST, 64).

%% @doc Returns an empty set.
-spec new() -> departed().
new() -> #{}.

%% @doc Adds a gateway that was in use; the set forgets one when it is full.
-spec add(node(), departed()) -> departed().
add(Node, Departed) when map_size(Departed) < ?MOST ->
    Departed#{Node => []};
add(Node, Departed) ->
    [Other | _] = maps:keys(Departed),
    (maps:remove(Other, Departed))#{Node => []}.

%% @doc Removes a gateway that is in use again, or whose session was ended.
-spec remove(node(), departed()) -> departed().
remove(Node, Departed) -> maps:remove(Node, Departed).

%% @doc Returns whether the gateway has departed.
-spec member(node(), departed()) -> boolean().
member(Node, Departed) -> is_map_key(Node, Departed).
