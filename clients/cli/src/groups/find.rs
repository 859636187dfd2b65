//! Which group a person means.

use anyhow::bail;
use messenger_client::{Groups, model::Group};

use super::{LISTED_MAX, PAGE};
use crate::terminal::clean;

/// Groups that are shown of those that could be meant.
const SHOWN_MAX: usize = 5;

/// The group with this id, or whose id begins so, or with this name.
pub(super) async fn group(groups: &Groups, wanted: &str) -> anyhow::Result<Group> {
    if let Ok(id) = uuid::Uuid::try_parse(wanted) {
        return Ok(groups.get(&id.to_string()).await?);
    }
    let mut all = all(groups).await?;
    let place = pick(&all, wanted)?;
    Ok(all.swap_remove(place))
}

/// All groups that the user is in.
pub(super) async fn all(groups: &Groups) -> anyhow::Result<Vec<Group>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = groups.list(PAGE, &page_token).await?;
        all.extend(page.groups);
        page_token = page.next_page_token;
        if page_token.is_empty() || all.len() >= LISTED_MAX {
            return Ok(all);
        }
    }
}

fn pick(all: &[Group], wanted: &str) -> anyhow::Result<usize> {
    let prefix = wanted.to_ascii_lowercase();
    let is_meant = |group: &Group| {
        let by_id = !prefix.is_empty() && group.group_id.starts_with(&prefix);
        by_id || group.name == wanted
    };
    let places = all.iter().enumerate().filter(|(_, group)| is_meant(group));
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    match places.as_slice() {
        [place] => Ok(*place),
        [] => bail!("you are in no group called {wanted:?}; try: messenger group list"),
        several => {
            let shown = several.iter().take(SHOWN_MAX).filter_map(|place| {
                let group = all.get(*place)?;
                Some(format!("{} ({})", group.group_id, clean(&group.name)))
            });
            let shown: Vec<_> = shown.collect();
            bail!(
                "{wanted:?} could be {} groups: {}; give more of the id",
                several.len(),
                shown.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_its_id_a_beginning_of_it_or_its_name_if_only_one_is_meant() {
        let group = |group_id: &str, name: &str| Group {
            group_id: group_id.to_owned(),
            name: name.to_owned(),
            ..Group::default()
        };
        let all = [
            group("0190aa", "garden"),
            group("0190bb", "garden"),
            group("77cc", "chess"),
            group("77dd", "0190a"),
        ];
        let picked = |wanted| pick(&all, wanted).map_err(|error| error.to_string());
        assert_eq!(picked("chess"), Ok(2));
        assert_eq!(picked("77C"), Ok(2));
        assert_eq!(picked("0190aa"), Ok(0));
        assert_eq!(picked("0190bb"), Ok(1));
        for several in ["garden", "0190", "77", "0190a"] {
            let error = picked(several).unwrap_err();
            assert!(error.contains("could be 2 groups"), "{error}");
        }
        for nothing in ["", "poker", "Chess"] {
            assert!(picked(nothing).unwrap_err().contains("no group"));
        }
    }
}
